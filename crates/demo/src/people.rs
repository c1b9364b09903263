//! The participants: sessions as the gateway makes them, and listeners.

use std::time::{Duration, Instant};

use postgres::fallible_iterator::FallibleIterator;
use postgres::types::ToSql;
use postgres::{Client, Config, Error, NoTls, Transaction};
use serde_json::json;

use crate::story;

const DATABASE: &str = "demo";
/// The user id of every session: mostly only the roles matter here.
pub const CITIZEN: &str = "8f14e45f-0000-4000-8000-000000000000";
/// Events arrive within milliseconds; after this time an event counts as missing.
const EVENT_TIMEOUT: Duration = Duration::from_secs(10);

pub struct Server {
    socket: String,
}

impl Server {
    pub fn new(socket: String) -> Server {
        Server { socket }
    }

    fn open(&self, user: &str, database: &str) -> Result<Client, Error> {
        Config::new().host(&self.socket).user(user).dbname(database).connect(NoTls)
    }

    pub fn make_database(&self) -> Result<(), Error> {
        let mut client = self.open("postgres", "postgres")?;
        client.batch_execute(&format!("DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)"))?;
        client.batch_execute(&format!("CREATE DATABASE {DATABASE}"))
    }

    /// The workers wait longer after each start in vain, and this database has not existed until now: a reload
    /// starts them at once.
    pub fn wait_for_relay(&self, client: &mut Client) -> Result<(), Error> {
        client.batch_execute("SELECT pg_reload_conf()")?;
        let deadline = Instant::now() + EVENT_TIMEOUT;
        let query = "SELECT running FROM civic.relay_stats()";
        while !client.query_one(query, &[])?.get::<_, bool>(0) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    pub fn connect(&self, user: &str) -> Result<Client, Error> {
        self.open(user, DATABASE)
    }

    /// A user who is logged in: the gateway's own role, set to `authenticated` with the claims of the
    /// verified token.
    pub fn person(&self, tenant_id: &str, role: &str) -> Result<Person, Error> {
        let claims = json!({
            "sub": CITIZEN,
            "role": "authenticated",
            "app_metadata": {"tenant_id": tenant_id, "role": role},
        });
        self.session("authenticated", &claims.to_string())
    }

    /// A caller who is not logged in.
    pub fn anonymous(&self) -> Result<Person, Error> {
        self.session("anon", r#"{"role": "anon"}"#)
    }

    /// The application's server, which handles webhooks.
    pub fn service(&self) -> Result<Person, Error> {
        self.session("service_role", "")
    }

    /// Makes the server reload its configuration, and waits until sessions use it.
    pub fn reload(&self, client: &mut Client) -> Result<(), Error> {
        let loaded = "SELECT pg_conf_load_time()::text";
        let before: String = client.query_one(loaded, &[])?.get(0);
        client.batch_execute("SELECT pg_reload_conf()")?;
        let deadline = Instant::now() + EVENT_TIMEOUT;
        while client.query_one(loaded, &[])?.get::<_, String>(0) == before
            && Instant::now() < deadline
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn session(&self, database_role: &'static str, claims: &str) -> Result<Person, Error> {
        let client = self.connect("authenticator")?;
        Ok(Person { client, database_role, claims: claims.to_owned() })
    }

    pub fn listener(&self, channels: &[&str]) -> Result<Listener, Error> {
        let mut client = self.connect("postgres")?;
        for channel in channels {
            client.batch_execute(&format!("LISTEN \"{channel}\""))?;
        }
        Ok(Listener { client })
    }
}

/// A user, or the server's side: role and claims last for one transaction, as the gateway sets them.
pub struct Person {
    client: Client,
    database_role: &'static str,
    claims: String,
}

impl Person {
    fn transaction<R>(
        &mut self,
        act: impl FnOnce(&mut Transaction<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let mut transaction = self.client.transaction()?;
        transaction.batch_execute(&format!("SET LOCAL ROLE {}", self.database_role))?;
        let set = "SELECT set_config('request.jwt.claims', $1, true)";
        transaction.execute(set, &[&self.claims])?;
        let result = act(&mut transaction)?;
        transaction.commit()?;
        Ok(result)
    }

    /// The result of a statement: the number of rows, or the error.
    pub fn outcome(result: Result<u64, Error>) -> String {
        match result {
            Ok(1) => "1 row".to_owned(),
            Ok(rows) => format!("{rows} rows"),
            Err(error) => story::described(&error),
        }
    }

    pub fn run(&mut self, statement: &str) -> String {
        Person::outcome(self.transaction(|it| it.execute(statement, &[])))
    }

    /// Uploads as the Storage API does: a plain INSERT as the caller.
    pub fn upload(&mut self, bucket: &str, name: &str) -> String {
        let statement = "INSERT INTO storage.objects (bucket_id, name) VALUES ($1, $2)";
        Person::outcome(self.transaction(|it| it.execute(statement, &[&bucket, &name])))
    }

    /// Uploads as the Storage API does for a user, with the file's metadata.
    pub fn upload_file(
        &mut self,
        bucket: &str,
        name: &str,
        content_type: &str,
        size: usize,
    ) -> String {
        let statement = "INSERT INTO storage.objects (bucket_id, name, owner_id, metadata)
             VALUES ($1, $2, $3, jsonb_build_object('size', $4::bigint, 'mimetype', $5::text))";
        let size = size as i64;
        let values: [&(dyn ToSql + Sync); 5] = [&bucket, &name, &CITIZEN, &size, &content_type];
        Person::outcome(self.transaction(|it| it.execute(statement, &values)))
    }

    /// How many objects of a bucket the user sees.
    pub fn count(&mut self, bucket: &str) -> String {
        let query = "SELECT name FROM storage.objects WHERE bucket_id = $1";
        let rows = self.transaction(|it| it.query(query, &[&bucket]));
        Person::outcome(rows.map(|rows| rows.len() as u64))
    }

    /// The number of rows of a query, or the error.
    pub fn outcome_of(&mut self, query: &str) -> String {
        let rows = self.transaction(|it| it.query(query, &[]));
        Person::outcome(rows.map(|rows| rows.len() as u64))
    }

    pub fn value(&mut self, query: &str) -> Result<String, Error> {
        self.transaction(|it| Ok(it.query_one(query, &[])?.get(0)))
    }
}

pub struct Listener {
    client: Client,
}

impl Listener {
    /// The next event's payload.
    pub fn next_event(&mut self) -> Result<String, Error> {
        let next = self.client.notifications().timeout_iter(EVENT_TIMEOUT).next()?;
        Ok(next.map_or("no event was received".to_owned(), |event| event.payload().to_owned()))
    }
}
