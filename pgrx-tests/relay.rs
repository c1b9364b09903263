//! The relay, on clusters that preload the library: shared helpers of these tests.

mod bulk;
mod crash;
mod fallback;
mod fuzz;
mod order;
mod prepared;
mod reservation;
mod server_queue;
mod settled;
mod standby;
mod subscriber;
mod unserved;
mod worker;

use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use postgres::fallible_iterator::FallibleIterator;

use super::support::cluster::Cluster;
use super::support::{Session, wait_until};

const TICKETS: &str = "
    CREATE EXTENSION IF NOT EXISTS pg_civic;
    CREATE TABLE tickets (id bigint PRIMARY KEY, tenant_id text, status text);
    CREATE TRIGGER received AFTER INSERT OR UPDATE ON tickets
        FOR EACH ROW EXECUTE FUNCTION civic.notify_ticket_update()";

/// A private cluster with a relay for the database `postgres` and a table of tickets.
fn relayed(settings: &[&str]) -> Cluster {
    let prepare = |cluster: &Cluster| cluster.superuser().run(TICKETS);
    let cluster = Cluster::preloaded("relay", settings, prepare);
    wait_for_relay(&mut cluster.superuser());
    cluster
}

/// The smallest possible queue.
const TINY: &str = "civic.relay_queue_size=4";

/// A shared cluster for tests that do not affect others: each uses its own municipality.
fn shared() -> Arc<Cluster> {
    static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    shared.upgrade().unwrap_or_else(|| {
        let cluster = Arc::new(relayed(&[]));
        *shared = Arc::downgrade(&cluster);
        cluster
    })
}

/// A column of `civic.relay_stats()`, as text.
#[track_caller]
fn stats(session: &mut Session, column: &str) -> String {
    let value = session.value(&format!("SELECT {column} FROM civic.relay_stats()"));
    value.unwrap_or("NULL".to_owned())
}

/// How many transactions fell back for this reason.
#[track_caller]
fn fell_back(session: &mut Session, reason: &str) -> u64 {
    stats(session, &format!("fell_back ->> '{reason}'")).parse().expect("a number")
}

/// Waits until the relay takes events and returns its process id.
#[track_caller]
fn wait_for_relay(session: &mut Session) -> String {
    wait_until("the relay runs", || stats(session, "running") == "t");
    stats(session, "pid")
}

/// Waits until every reservation is settled and delivered.
#[track_caller]
fn assert_queue_empties(session: &mut Session) {
    wait_until("the queue is empty", || stats(session, "queue_bytes_used") == "0");
    wait_until("nothing is queued", || stats(session, "queued") == "0");
}

/// Waits until another session waits for this event.
#[track_caller]
fn wait_for_event(session: &mut Session, pid: &str, event: &str) {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND wait_event = '{event}'"
    );
    wait_until(event, || session.text(&sql) == "1");
}

/// Has every commit wait for a standby that does not exist, unless `synchronous_commit` is local. The
/// checkpointer decides that, and may read the setting later than a session does.
fn wait_for_absent_standby(cluster: &Cluster) {
    let mut session = cluster.superuser();
    session.run("ALTER SYSTEM SET synchronous_standby_names = 'absent'");
    session.run("SELECT pg_reload_conf()");
    let mut probe = cluster.superuser();
    let process = pid(&mut probe);
    let waiting = std::thread::spawn(move || {
        // The warning of a commit that has waited, and was cancelled.
        while !probe.warnings().iter().any(|it| it.message().contains("synchronous replication")) {
            probe.run("SELECT pg_logical_emit_message(true, 'probe', '')");
        }
    });
    wait_for_event(&mut session, &process, "SyncRep");
    session.run(&format!("SELECT pg_cancel_backend({process})"));
    waiting.join().expect("a commit that is cancelled succeeds");
}

fn pid(session: &mut Session) -> String {
    session.text("SELECT pg_backend_pid()")
}

/// Adds a ticket, published as one event.
fn insert(id: i64, tenant: &str, status: &str) -> String {
    format!("INSERT INTO tickets VALUES ({id}, '{tenant}', '{status}')")
}

/// A listener of a municipality with its record: the statuses, and the processes that notified.
struct Listener {
    session: Session,
    statuses: Vec<String>,
    notifiers: Vec<String>,
}

impl Listener {
    fn of(mut session: Session, tenant: &str) -> Listener {
        session.run(&format!("LISTEN \"ticket_updates:{tenant}\""));
        Listener { session, statuses: vec![], notifiers: vec![] }
    }

    /// Records what has arrived, waiting briefly for more. It returns while more keeps coming, so that its
    /// caller can decide when that is enough.
    fn listen(&mut self) {
        let end = Instant::now() + Duration::from_secs(1);
        let mut notifications = self.session.client().notifications();
        let mut come = notifications.timeout_iter(Duration::from_millis(20));
        while Instant::now() < end
            && let Some(notification) = come.next().expect("the connection is open")
        {
            let event: serde_json::Value =
                serde_json::from_str(notification.payload()).expect("JSON");
            self.statuses.push(event["status"].as_str().unwrap_or("?").to_owned());
            self.notifiers.push(notification.process_id().to_string());
        }
    }

    /// Waits for an event with this status, and returns everything received up to it.
    #[track_caller]
    fn receive_until(&mut self, status: &str) -> Vec<String> {
        wait_until(&format!("'{status}' is received"), || {
            self.listen();
            self.statuses.iter().any(|received| received == status)
        });
        self.notifiers.clear();
        std::mem::take(&mut self.statuses)
    }
}
