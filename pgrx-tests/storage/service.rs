//! The storage service, on a cluster that preloads the library, with fakes of the Storage API and
//! of Twilio: shared helpers of these tests.

mod attachments;
mod confirm;
mod downloads;
mod faults;
mod foreign;
mod interruption;
mod links;
mod requests;
mod secrets;
mod settings;
mod statuses;
mod targets;
mod types;
mod uploads;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use civic_fake_services::{Options, Storage, Twilio};
use serde_json::Value;

use crate::pg_tests::support::cluster::Cluster;
use crate::pg_tests::support::{
    APPLICATION, SUPABASE, Session, TENANT, claims, literal, wait_until,
};

const ACCOUNT: &str = "AC00000000000000000000000000000001";
const TOKEN: &str = "the-twilio-token-of-these-tests";
const PHOTO: &[u8] = b"\xff\xd8\xff\xe0 a photo of a burst pipe";
const SUB: &str = "8f14e45f-0000-4000-8000-000000000000";

/// A private database, and the configured services.
pub struct Town {
    cluster: Arc<Cluster>,
    storage: Storage,
    twilio: Twilio,
    database: String,
    /// The settings belong to the whole cluster, so tests run one at a time.
    _turn: Option<MutexGuard<'static, ()>>,
}

const TEMPLATE: &str = "template_town";

fn preloaded(settings: &[&str]) -> Cluster {
    Cluster::preloaded("service", settings, |cluster| {
        cluster.superuser().run(&format!("CREATE DATABASE {TEMPLATE}"));
        let mut session = cluster.superuser_of(TEMPLATE);
        for fixture in [SUPABASE, APPLICATION, "CREATE EXTENSION pg_civic"] {
            session.run(fixture);
        }
        session.run("SELECT count(*) FROM civic.setup('public.tickets')");
    })
}

impl Town {
    /// On the shared cluster, with the default services.
    pub fn new() -> Town {
        Town::with(Options::default())
    }

    fn with(options: Options) -> Town {
        static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
        static TURN: Mutex<()> = Mutex::new(());
        let cluster = {
            let mut shared = SHARED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            shared.upgrade().unwrap_or_else(|| {
                let cluster = Arc::new(preloaded(&[]));
                *shared = Arc::downgrade(&cluster);
                cluster
            })
        };
        let turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        Town::on(cluster, options, Some(turn))
    }

    /// On a private cluster, for tests that would disturb others.
    fn apart(settings: &[&str]) -> Town {
        Town::on(Arc::new(preloaded(settings)), Options::default(), None)
    }

    fn on(cluster: Arc<Cluster>, options: Options, turn: Option<MutexGuard<'static, ()>>) -> Town {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        let database = format!("town_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let mut session = cluster.superuser();
        session.run("ALTER SYSTEM RESET ALL");
        let create = format!("CREATE DATABASE {database} TEMPLATE {TEMPLATE}");
        // The session that filled the template may still be disconnecting.
        wait_until("the template is free", || session.client().batch_execute(&create).is_ok());
        let (storage, twilio) = (Storage::start(options), Twilio::start(ACCOUNT, TOKEN));
        let town = Town { cluster, storage, twilio, database, _turn: turn };
        town.configure(&[
            ("civic.storage_url", &town.storage.url()),
            ("civic.service_key", town.storage.service_key()),
            ("civic.jwt_secret", town.storage.jwt_secret()),
            ("civic.twilio_account_sid", ACCOUNT),
            ("civic.twilio_auth_token", TOKEN),
            ("civic.media_hosts", &town.twilio.hosts()),
        ]);
        town
    }

    /// Sets these settings for the whole server; an empty value resets one.
    pub fn configure(&self, settings: &[(&str, &str)]) {
        static MARK: AtomicUsize = AtomicUsize::new(1);
        let mut session = self.cluster.superuser();
        for (setting, value) in settings {
            session.run(&format!("ALTER SYSTEM SET {setting} = {}", literal(value)));
        }
        // A setting that is not secret shows when the server has loaded them all.
        let mark = (60_000 + MARK.fetch_add(1, Ordering::Relaxed)).to_string();
        session.run(&format!("ALTER SYSTEM SET checkpoint_warning = {mark}"));
        session.run("SELECT pg_reload_conf()");
        wait_until("the settings are taken", || {
            let setting = "SELECT setting FROM pg_settings WHERE name = 'checkpoint_warning'";
            self.cluster.superuser().text(setting) == mark
        });
    }

    pub fn superuser(&self) -> Session {
        self.cluster.superuser_of(&self.database)
    }

    /// The application's server side.
    fn service_role(&self) -> Session {
        self.acting_as("service_role", "{\"role\": \"service_role\"}")
    }

    /// A user of the municipality, with a role of the application.
    fn person(&self, role: &str) -> Session {
        self.acting_as("authenticated", &claims(TENANT, role))
    }

    fn acting_as(&self, role: &str, claims: &str) -> Session {
        let mut session = self.superuser();
        session.acts_as(role, claims);
        session
    }
}

/// Adds the row of a file that the Storage API has stored.
fn add_object(session: &mut Session, bucket: &str, name: &str, owner_id: &str) {
    session.run(&format!(
        "INSERT INTO storage.objects (bucket_id, name, owner_id, metadata)
         VALUES ('{bucket}', {}, '{owner_id}', '{{\"size\": 1234, \"mimetype\": \"image/jpeg\"}}')",
        literal(name)
    ));
}

/// The JSON of the single value of a query.
#[track_caller]
fn json(session: &mut Session, sql: &str) -> Value {
    serde_json::from_str(&session.text(sql)).expect("JSON")
}
