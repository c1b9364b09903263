//! Media, on a cluster that preloads the library, between a fake Twilio and a fake Storage API: what
//! these tests share.

mod access;
mod attacks;
mod crash;
mod fair;
mod faults;
mod foreign;
mod jobs;
mod load;
mod metrics;
mod recording;
mod restrict;
mod sensitive;
mod settings;
mod storm;
mod surroundings;
mod worker;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use civic_fake_services::{Options, Storage, Twilio};

use super::support::cluster::Cluster;
use super::support::{APPLICATION, SUPABASE, Session, TENANT, literal, wait_until, wait_within};

const ACCOUNT: &str = "AC00000000000000000000000000000001";
const TOKEN: &str = "a-twilio-token";
const PHOTO: &[u8] = b"\xff\xd8\xff\xe0 a photo of a burst pipe";
/// What a thousand jobs may take on a machine that does other things.
const MANY_JOBS: Duration = Duration::from_secs(180);
const TICKET: &str = "8f14e45f-ceea-467f-a83c-6d8b04dd5d30";

/// A cluster whose worker serves the database `postgres`, and the services that it asks.
struct Town {
    cluster: Arc<Cluster>,
    storage: Storage,
    twilio: Twilio,
    session: Session,
    /// The settings are the whole cluster's: one test at a time.
    _turn: Option<MutexGuard<'static, ()>>,
}

/// A cluster of a test's own, with the worker and with the application's tables.
fn media_cluster(settings: &[&str]) -> Cluster {
    Cluster::preloaded("media", settings, |cluster| install(&mut cluster.superuser()))
}

fn install(session: &mut Session) {
    session.run(SUPABASE);
    session.run(APPLICATION);
    session.run("CREATE EXTENSION pg_civic");
    session.run("SELECT count(*) FROM civic.setup('public.tickets')");
}

impl Town {
    /// On the cluster that these tests share, with services and settings of its own.
    fn new() -> Town {
        Town::with_storage(Storage::start(Options::default()))
    }

    fn with_storage(storage: Storage) -> Town {
        static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
        static TURN: Mutex<()> = Mutex::new(());
        let cluster = {
            let mut shared = SHARED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            shared.upgrade().unwrap_or_else(|| {
                let cluster = Arc::new(media_cluster(&[]));
                *shared = Arc::downgrade(&cluster);
                cluster
            })
        };
        let turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        Town::on(cluster, storage, Some(turn))
    }

    /// On a cluster of its own, for what would disturb the others.
    fn apart(storage: Storage) -> Town {
        Town::on(Arc::new(media_cluster(&[])), storage, None)
    }

    fn on(cluster: Arc<Cluster>, storage: Storage, turn: Option<MutexGuard<'static, ()>>) -> Town {
        let mut session = cluster.superuser();
        session.run("TRUNCATE civic.media_jobs, public.tickets, public.media_attachments");
        session.run("ALTER SYSTEM RESET ALL");
        let twilio = Twilio::start(ACCOUNT, TOKEN);
        let mut town = Town { cluster, storage, twilio, session, _turn: turn };
        let storage_url = town.storage.project_url();
        let service_key = town.storage.service_key().to_owned();
        let hosts = town.twilio.hosts();
        town.set("civic.supabase_url", &storage_url);
        town.set("civic.service_key", &service_key);
        town.set("civic.twilio_account_sid", ACCOUNT);
        town.set("civic.twilio_auth_token", TOKEN);
        town.set("civic.media_hosts", &hosts);
        town.reload();
        town
    }

    fn set(&mut self, setting: &str, value: &str) {
        self.session.run(&format!("ALTER SYSTEM SET {setting} = {}", literal(value)));
    }

    /// Has the whole server take what was set. The worker has taken it when it comes to this test's
    /// services.
    fn reload(&mut self) {
        self.reload_keeping();
        self.session.run("DELETE FROM civic.media_jobs");
    }

    /// The same, and jobs stay.
    fn reload_keeping(&mut self) {
        self.session.run("SELECT pg_reload_conf()");
        let workers = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_civic media'";
        wait_until("the worker runs", || self.session.column(workers).len() == 1);
        wait_until("the worker has read the settings", || {
            let url = self.twilio.offer("image/jpeg", PHOTO);
            self.try_enqueue(&url).is_some_and(|id| self.wait_for_end(&id) == "done")
        });
    }

    /// As [`Town::enqueue`]; `None` where the address is refused, as it is by the settings of before.
    fn try_enqueue(&mut self, url: &str) -> Option<String> {
        let sql = format!(
            "SELECT civic.enqueue_media('{url}', 'image/jpeg', '{TICKET}', '{TENANT}')::text"
        );
        Some(self.session.client().query_one(&sql, &[]).ok()?.get(0))
    }

    /// A database of this cluster that no worker serves: there jobs stay as they are. Gives its name.
    fn database_without_worker(&self) -> String {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        let name = format!("still_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.cluster.superuser().run(&format!("CREATE DATABASE {name}"));
        install(&mut self.cluster.superuser_of(&name));
        name
    }

    /// Adds a job for an ordinary ticket; gives its id.
    #[track_caller]
    fn enqueue(&mut self, url: &str) -> String {
        self.enqueue_as(url, TICKET, TENANT, false)
    }

    #[track_caller]
    fn enqueue_as(&mut self, url: &str, ticket: &str, tenant: &str, is_sensitive: bool) -> String {
        self.session.text(&format!(
            "SELECT civic.enqueue_media({}, 'image/jpeg', '{ticket}', '{tenant}', {is_sensitive})",
            literal(url)
        ))
    }

    /// A column of a job, as text.
    #[track_caller]
    fn job(&mut self, id: &str, column: &str) -> String {
        job(&mut self.session, id, column)
    }

    #[track_caller]
    fn wait_for_state(&mut self, id: &str, state: &str) {
        wait_until(&format!("job {id} is {state}"), || self.job(id, "state") == state);
    }

    /// Waits for a job's end, without the waits between its tries; gives its state.
    #[track_caller]
    fn wait_for_end(&mut self, id: &str) -> String {
        wait_until(&format!("job {id} ends"), || {
            // A job that runs by now refuses it.
            let _ = self.session.client().batch_execute(&format!(
                "SELECT civic.retry_media_job(id) FROM civic.media_jobs
                 WHERE id = '{id}' AND state = 'queued' AND attempts > 0"
            ));
            !matches!(self.job(id, "state").as_str(), "queued" | "running")
        });
        self.job(id, "state")
    }

    /// Has a job that has ended tried anew; gives the state in which it ends then.
    #[track_caller]
    fn retry(&mut self, id: &str) -> String {
        self.session.run(&format!("SELECT civic.retry_media_job('{id}')"));
        self.wait_for_end(id)
    }

    /// The one worker's process.
    #[track_caller]
    fn worker(&mut self) -> String {
        let sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_civic media'";
        let mut workers = vec![];
        wait_until("the worker runs", || {
            workers = self.session.column(sql);
            workers.len() == 1
        });
        workers.remove(0)
    }
}

#[track_caller]
fn job(session: &mut Session, id: &str, column: &str) -> String {
    let sql = format!("SELECT {column} FROM civic.media_jobs WHERE id = '{id}'");
    session.value(&sql).unwrap_or("NULL".to_owned())
}
