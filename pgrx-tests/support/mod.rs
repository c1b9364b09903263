//! Databases and sessions for tests.

pub mod cluster;

use std::io::Write;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use postgres::error::DbError;
use postgres::{Client, NoTls};

pub mod installation;
pub mod postgrest;
mod session;

pub use session::Session;

pub const SUPABASE: &str = include_str!("../fixtures/supabase.sql");
pub const APPLICATION: &str = include_str!("../fixtures/application.sql");
/// Supabase Realtime's schema.
pub const REALTIME: &str = include_str!("../fixtures/realtime.sql");
/// Rows of two municipalities, and more tables of the application.
pub const ROWS: &str = include_str!("../fixtures/rows.sql");
/// Row security by hand, as the application's migrations have it.
pub const ROW_POLICIES: &str = include_str!("../fixtures/row_policies.sql");
/// Puts the tables of [`ROWS`] under the rules.
pub const PROTECT: &str = "SELECT count(*) FROM civic.protect('public.tickets');
    SELECT count(*) FROM civic.protect('public.media_attachments');
    SELECT count(*) FROM civic.protect('public.ticket_assignments');
    SELECT count(*) FROM civic.protect('public.users', owner_columns => '{id}');
    SELECT count(*) FROM civic.protect('public.teams', readable => 'tenant')";
pub const MIGRATIONS: &str = include_str!("../fixtures/migrations.sql");

/// The seed's name for a municipality.
pub const TENANT: &str = "00000000-0000-0000-0000-000000000001";
pub const OTHER_TENANT: &str = "00000000-0000-0000-0000-000000000002";

struct Server {
    port: u16,
    user: String,
}

/// The server of this test run, with the template databases.
static SERVER: LazyLock<Server> = LazyLock::new(|| {
    pgrx_tests::run_test("boot", None, super::CONFIGURATION.to_vec()).expect("the server starts");
    let (mut client, _) = pgrx_tests::client().expect("the server answers");
    let port: String = client.query_one("SHOW port", &[]).expect("it has a port").get(0);
    let server = Server { port: port.parse().expect("a number"), user: pgrx_tests::get_pg_user() };
    // A database without findings needs it, on the servers that have the setting.
    let plugins = "SELECT 1 FROM pg_settings WHERE name = 'output_plugin_libraries'";
    if client.query_opt(plugins, &[]).expect("the server answers").is_some() {
        client
            .batch_execute(
                "ALTER ROLE CURRENT_USER SET output_plugin_libraries = pgoutput, test_decoding, wal2json",
            )
            .expect("a list of names");
    }
    for (name, fixtures) in [
        ("template_uninstalled", vec![SUPABASE, APPLICATION]),
        ("template_plain", vec!["CREATE EXTENSION pg_civic"]),
        ("template_supabase", vec![SUPABASE, APPLICATION, "CREATE EXTENSION pg_civic"]),
        (
            "template_guarded",
            vec![
                SUPABASE,
                APPLICATION,
                "CREATE EXTENSION pg_civic",
                "SELECT count(*) FROM civic.setup('public.tickets')",
            ],
        ),
        (
            "template_rows",
            vec![
                SUPABASE,
                APPLICATION,
                ROWS,
                "CREATE EXTENSION pg_civic",
                "SELECT count(*) FROM civic.setup('public.tickets')",
            ],
        ),
        (
            "template_protected",
            vec![
                SUPABASE,
                APPLICATION,
                ROWS,
                "CREATE EXTENSION pg_civic",
                "SELECT count(*) FROM civic.setup('public.tickets')",
                PROTECT,
            ],
        ),
        (
            "template_realtime",
            vec![
                SUPABASE,
                REALTIME,
                APPLICATION,
                "CREATE EXTENSION pg_civic",
                "SELECT count(*) FROM civic.setup('public.tickets')",
            ],
        ),
    ] {
        client.batch_execute(&format!("CREATE DATABASE {name}")).expect("a template");
        let mut template = server.connect(name, Arc::default());
        for fixture in fixtures {
            template.batch_execute(fixture).expect("the fixtures run");
        }
    }
    server
});

impl Server {
    fn connect(&self, database: &str, notices: Notices) -> Client {
        self.connect_as(&self.user, database, "", notices)
    }

    fn connect_as(&self, user: &str, database: &str, options: &str, notices: Notices) -> Client {
        postgres::Config::new()
            .host("localhost")
            .port(self.port)
            .user(user)
            .dbname(database)
            .options(options)
            .notice_callback(move |notice| notices.lock().expect("not poisoned").push(notice))
            .connect(NoTls)
            .expect("the server takes connections")
    }
}

type Notices = Arc<Mutex<Vec<DbError>>>;

/// The private database of a test.
pub struct Database {
    name: String,
}

impl Database {
    /// With only the extension.
    pub fn plain() -> Database {
        Database::copy_of("template_plain")
    }

    /// With the schemas of Supabase and the application's tables, without the extension.
    pub fn uninstalled() -> Database {
        Database::copy_of("template_uninstalled")
    }

    /// With the schemas of Supabase, the application's tables and the extension, before
    /// `civic.setup()`.
    pub fn supabase() -> Database {
        Database::copy_of("template_supabase")
    }

    /// Like [`Database::supabase`], after `civic.setup('public.tickets')`.
    pub fn guarded() -> Database {
        Database::copy_of("template_guarded")
    }

    /// Like [`Database::guarded`], with Supabase Realtime.
    pub fn realtime() -> Database {
        Database::copy_of("template_realtime")
    }

    /// Like [`Database::guarded`], with [`ROWS`], which every user may read and change.
    pub fn rows() -> Database {
        Database::copy_of("template_rows")
    }

    /// Like [`Database::rows`], protected.
    pub fn protected() -> Database {
        Database::copy_of("template_protected")
    }

    fn copy_of(template: &str) -> Database {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        // One at a time: a template must not be in use while it is copied.
        static COPYING: Mutex<()> = Mutex::new(());
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let server = &*SERVER;
        let _guard = COPYING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut client = server.connect("postgres", Arc::default());
        // The session that filled the template may still be disconnecting.
        let deadline = Instant::now() + DEADLINE;
        let statement = format!("CREATE DATABASE {name} TEMPLATE {template}");
        while let Err(error) = client.batch_execute(&statement) {
            assert!(Instant::now() < deadline, "{statement}: {error}");
        }
        Database { name }
    }

    /// Empty, created with options of CREATE DATABASE; without the extension.
    pub fn empty(options: &str) -> Database {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        let name = format!("empty_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let mut client = SERVER.connect("postgres", Arc::default());
        let statement = format!("CREATE DATABASE {name} TEMPLATE template0 {options}");
        client.batch_execute(&statement).expect(&statement);
        Database { name }
    }

    /// A database that the test has created itself.
    pub fn named(name: String) -> Database {
        Database { name }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// A role for this test only, because roles belong to the whole server.
    pub fn role(&self, name: &str, options: &str) -> String {
        let role = format!("{}_{name}", self.name);
        self.superuser().run(&format!("CREATE ROLE {role} {options}"));
        role
    }

    /// [`Database::role`] of an operator, who may call `civic.setup()`, `teardown()` and `check()`.
    pub fn operator(&self, name: &str, options: &str) -> String {
        let role = self.role(name, options);
        self.superuser().run(&format!(
            "GRANT EXECUTE ON FUNCTION civic.setup(regclass), civic.teardown(), civic.check(),
                 civic.protect(regclass, text, text[], text, text, text, text[], text),
                 civic.unprotect(regclass) TO {role}"
        ));
        role
    }

    /// One of PostgreSQL's own programs, from the server's bin directory, with the server's
    /// address.
    pub fn program(&self, name: &str) -> std::process::Command {
        let bin = "SELECT setting FROM pg_catalog.pg_config() WHERE name = 'BINDIR'";
        let path = format!("{}/{name}", self.superuser().text(bin));
        let mut program = std::process::Command::new(path);
        program.args(["--host", "localhost", "--port", &SERVER.port.to_string()]);
        program.args(["--username", &SERVER.user, "--dbname", &self.name]);
        program
    }

    /// Runs a script by psql, which continues after an error.
    pub fn run_script(&self, script: &str) {
        let mut psql = self.program("psql");
        psql.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut psql = psql.spawn().expect("it runs");
        psql.stdin.take().expect("piped").write_all(script.as_bytes()).expect("psql reads it");
        psql.wait().expect("it ends");
    }

    /// A session of the superuser.
    pub fn superuser(&self) -> Session {
        let notices = Notices::default();
        Session { client: SERVER.connect(&self.name, Arc::clone(&notices)), notices }
    }

    /// A session that logs in as another role.
    pub fn session_of(&self, role: &str) -> Session {
        self.superuser().run(&format!("ALTER ROLE {role} LOGIN"));
        self.login(role, "")
    }

    /// A session of a role that logs in, with these options in its startup packet.
    pub fn login(&self, role: &str, options: &str) -> Session {
        let notices = Notices::default();
        let client = SERVER.connect_as(role, &self.name, options, Arc::clone(&notices));
        Session { client, notices }
    }

    /// The server's port on localhost, and the superuser's name, for connections without the
    /// driver.
    pub fn address(&self) -> (u16, &'static str) {
        (SERVER.port, &SERVER.user)
    }

    /// A session as the gateway makes it: role `authenticated` with these claims.
    pub fn authenticated(&self, claims: &str) -> Session {
        let mut session = self.superuser();
        session.acts_as("authenticated", claims);
        session
    }

    /// A session of a user of a municipality, with a role of the application.
    pub fn person(&self, tenant_id: &str, role: &str) -> Session {
        self.authenticated(&claims(tenant_id, role))
    }
}

/// Claims as the application's token hook creates them.
pub fn claims(tenant_id: &str, role: &str) -> String {
    claims_of("8f14e45f-0000-4000-8000-000000000000", tenant_id, role)
}

/// [`claims`] of another user.
pub fn claims_of(user_id: &str, tenant_id: &str, role: &str) -> String {
    serde_json::json!({
        "sub": user_id,
        "role": "authenticated",
        "app_metadata": {"tenant_id": tenant_id, "role": role},
        "user_metadata": {},
    })
    .to_string()
}

/// A text as an SQL literal.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The size of a long test: a part in `make test`, the whole in `make proof`.
pub fn extent<T>(part: T, whole: T) -> T {
    if std::env::var_os("CIVIC_PROOF").is_some() { whole } else { part }
}

/// How long a test waits for something that takes milliseconds on an idle machine.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// Waits for a condition, and fails on timeout.
#[track_caller]
pub fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    wait_within(DEADLINE, what, condition);
}

/// [`wait_until`] for conditions that take seconds on an idle machine.
#[track_caller]
pub fn wait_within(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
#[ignore = "the process that tests of a killed Storage API start"]
fn fake_storage_process() {
    civic_fake_services::Process::serve();
}
