//! Databases, sessions and claims.

use std::fmt::Write;
use std::time::{Duration, Instant};

use postgres::error::DbError;
use postgres::{Client, Config, NoTls};
use serde_json::json;

use crate::Error;

pub const SUPABASE: &str = include_str!("../../../pgrx-tests/fixtures/supabase.sql");
pub const REALTIME: &str = include_str!("../../../pgrx-tests/fixtures/realtime.sql");
pub const APPLICATION: &str = include_str!("../../../pgrx-tests/fixtures/application.sql");
/// The six policies and the trigger of the application's migrations, the peer in the comparisons.
pub const MIGRATIONS: &str = include_str!("../../../pgrx-tests/fixtures/migrations.sql");
/// Row security by hand, as the application's migrations have it for its tables.
pub const ROW_POLICIES: &str = include_str!("../../../pgrx-tests/fixtures/row_policies.sql");
/// The policies and the trigger of pg_civic, in their standard installation.
pub const CIVIC: &str =
    "CREATE EXTENSION pg_civic; SELECT count(*) FROM civic.setup('public.tickets')";

/// The database that the cluster's workers serve.
pub const SERVED: &str = "bench";

pub struct Server {
    socket: String,
}

/// Properties of the server that affect the results.
pub struct Facts {
    pub version: String,
    pub cores: usize,
    pub fsync: String,
    pub claims_bytes: usize,
}

impl Server {
    pub fn new(socket: &str) -> Server {
        Server { socket: socket.to_owned() }
    }

    pub fn socket(&self) -> &str {
        &self.socket
    }

    pub fn facts(&self) -> Result<Facts, Error> {
        let mut session = self.session("postgres")?;
        // Its work would disturb one side or the other.
        session.batch_execute("ALTER SYSTEM SET autovacuum = off")?;
        session.batch_execute("SELECT pg_reload_conf()")?;
        Ok(Facts {
            version: session.query_one("SHOW server_version", &[])?.get(0),
            cores: std::thread::available_parallelism()?.get(),
            fsync: session.query_one("SHOW fsync", &[])?.get(0),
            claims_bytes: claims(&tenant(1)).len(),
        })
    }

    /// A session of the superuser.
    pub fn session(&self, database: &str) -> Result<Client, Error> {
        let mut config = Config::new();
        config.host_path(&self.socket).user("postgres").dbname(database);
        Ok(config.connect(NoTls)?)
    }

    /// A session of a municipality's manager, as the gateway makes it.
    pub fn manager(&self, database: &str, tenant_id: &str) -> Result<Client, Error> {
        self.person(database, &claims(tenant_id))
    }

    /// A session of a user with these claims, as the gateway makes it.
    pub fn person(&self, database: &str, claims: &str) -> Result<Client, Error> {
        let mut session = self.session(database)?;
        session.execute("SELECT set_config('request.jwt.claims', $1, false)", &[&claims])?;
        session.batch_execute("SET ROLE authenticated")?;
        Ok(session)
    }

    /// A session of a role that bypasses row security.
    pub fn unguarded(&self, database: &str) -> Result<Client, Error> {
        let mut session = self.session(database)?;
        session.batch_execute("SET ROLE service_role")?;
        Ok(session)
    }

    /// Creates a database and runs scripts in it.
    pub fn create(&self, database: &str, scripts: &[&str]) -> Result<(), Error> {
        self.session("postgres")?.batch_execute(&format!("CREATE DATABASE {database}"))?;
        self.run(database, scripts)
    }

    /// Creates the database that the workers serve, after dropping an earlier one, and waits until
    /// the relay serves it.
    pub fn create_served(&self, scripts: &[&str]) -> Result<(), Error> {
        let drop = format!("DROP DATABASE IF EXISTS {SERVED} WITH (FORCE)");
        self.session("postgres")?.batch_execute(&drop)?;
        self.create(SERVED, scripts)?;
        let mut session = self.session(SERVED)?;
        let query = "SELECT running FROM civic.relay_stats()";
        let deadline = Instant::now() + Duration::from_secs(30);
        while !session.query_one(query, &[])?.get::<_, bool>(0) {
            if Instant::now() > deadline {
                return Err("the relay did not start".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Copies a database that is no longer in use, and runs scripts in the copy.
    pub fn copy(&self, from: &str, database: &str, scripts: &[&str]) -> Result<(), Error> {
        let mut session = self.session("postgres")?;
        let version: String = session.query_one("SHOW server_version_num", &[])?.get(0);
        let strategy = if version.parse::<u32>()? >= 150_000 { "STRATEGY file_copy" } else { "" };
        let statement = format!("CREATE DATABASE {database} TEMPLATE {from} {strategy}");
        let deadline = Instant::now() + Duration::from_secs(20);
        // The session that filled it may still be disconnecting.
        while let Err(error) = session.batch_execute(&statement) {
            if Instant::now() > deadline {
                Err(error)?;
            }
        }
        self.run(database, scripts)
    }

    fn run(&self, database: &str, scripts: &[&str]) -> Result<(), Error> {
        let mut session = self.session(database)?;
        scripts.iter().try_for_each(|script| Ok(session.batch_execute(script)?))
    }
}

/// The id of a municipality.
pub fn tenant(number: usize) -> String {
    format!("00000000-0000-0000-0000-{number:012}")
}

/// The claims of a manager, with everything that Supabase's Auth server puts into an access token
/// (<https://supabase.com/docs/guides/auth/jwt-fields>) and what the application's hook adds.
pub fn claims(tenant_id: &str) -> String {
    claims_of(tenant_id, "manager", "8f14e45f-ceea-467f-9575-27b1c5d1a2f3")
}

/// [`claims`] of a user with another role.
pub fn claims_of(tenant_id: &str, role: &str, user_id: &str) -> String {
    json!({
        "iss": "https://abcdefghijklmnopqrst.supabase.co/auth/v1",
        "sub": user_id,
        "aud": "authenticated",
        "exp": 1_770_003_600,
        "iat": 1_770_000_000,
        "email": "thandi.nkosi@example.org",
        "phone": "",
        "app_metadata": {
            "all_roles": [role],
            "provider": "email",
            "providers": ["email"],
            "role": role,
            "tenant_id": tenant_id,
        },
        "user_metadata": {
            "email": "thandi.nkosi@example.org",
            "email_verified": true,
            "full_name": "Thandi Nkosi",
            "phone_verified": false,
            "sub": user_id,
        },
        "role": "authenticated",
        "aal": "aal1",
        "amr": [{"method": "password", "timestamp": 1_770_000_000}],
        "session_id": "5d3b6a3e-3f0e-4f2f-9d43-0d5f3a1c9b57",
        "is_anonymous": false,
    })
    .to_string()
}

/// The text of a script with its variables replaced, as psql does.
pub fn fill(script: &str, variables: &[(&str, &str)]) -> String {
    variables
        .iter()
        .fold(script.to_owned(), |script, (name, value)| script.replace(&format!(":{name}"), value))
}

/// An error with the server's message.
pub fn explained(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let _ = write!(text, ": {error}");
        if let Some(error) = error.downcast_ref::<DbError>() {
            for part in [error.detail(), error.hint(), error.where_()].into_iter().flatten() {
                let _ = write!(text, "\n{part}");
            }
        }
        source = error.source();
    }
    text
}
