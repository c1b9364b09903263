//! Metrics in shared memory: of the workers, the relay, events, media and uploads.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;

use super::Metric;
use crate::media::job::Kind;
use crate::pg;
use crate::pg::shared::counters::{AttemptEnd, ErrorClass, JobEnd, RealtimeLoss};
use crate::pg::shared::{FellBack, Shared};
use crate::storage::bucket;

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

pub fn metrics(shared: &'static Shared) -> Vec<Metric> {
    [workers(shared), relay(shared), events(shared), media(shared), uploads(shared), checks(shared)]
        .concat()
}

fn workers(shared: &Shared) -> Vec<Metric> {
    let workers = [
        ("relay", &shared.relay),
        ("media", &shared.media),
        ("media_tables", &shared.media_tables),
    ];
    let metrics = workers.map(|(worker, slot)| {
        [
            Metric::labelled(
                "pg_civic_worker_up",
                "Whether the background worker runs.",
                json!({"worker": worker}),
                u64::from(slot.pid().is_some()),
            ),
            Metric::labelled(
                "pg_civic_worker_failed_starts",
                "Starts of the background worker since it last worked.",
                json!({"worker": worker}),
                u64::from(slot.failed_starts()),
            ),
        ]
    });
    metrics.into_iter().flatten().collect()
}

fn relay(shared: &'static Shared) -> Vec<Metric> {
    let queue = shared.queue();
    let delivered = read(&shared.delivered);
    let oldest = queue.oldest().map_or(0, |since| (pg::transaction::now() - since as i64).max(0));
    let mut metrics = vec![
        Metric::new(
            "pg_civic_relay_queued_events",
            "Events of committed transactions that wait for the relay.",
            read(&shared.accepted).saturating_sub(delivered),
        ),
        Metric::new(
            "pg_civic_relay_oldest_wait_seconds",
            "For how long the oldest transaction has been waiting for the relay, 0 if none waits.",
            oldest as f64 / 1e6,
        ),
        Metric::new(
            "pg_civic_relay_delivered_events_total",
            "Events that the relay has notified.",
            delivered,
        ),
        Metric::new(
            "pg_civic_relay_delivered_bytes_total",
            "Bytes of the events that the relay has notified, channels included.",
            read(&shared.counters.relay_bytes),
        ),
        Metric::new(
            "pg_civic_relay_batches_total",
            "Transactions of the relay.",
            read(&shared.batches),
        ),
        Metric::new(
            "pg_civic_relay_queue_used_bytes",
            "Bytes of the relay's queue that are in use.",
            queue.used(),
        ),
        Metric::new(
            "pg_civic_relay_queue_peak_bytes",
            "The most bytes of the relay's queue that were ever in use.",
            queue.highest(),
        ),
        Metric::new(
            "pg_civic_relay_queue_size_bytes",
            "Size of the relay's queue: civic.relay_queue_size.",
            queue.size(),
        ),
    ];
    metrics.extend(FellBack::ALL.map(|(reason, name)| {
        Metric::labelled(
            "pg_civic_relay_fallbacks_total",
            "Transactions whose events went out by ordinary NOTIFY.",
            json!({"reason": name}),
            read(&shared.fell_back[reason as usize]),
        )
    }));
    metrics
}

fn events(shared: &Shared) -> Vec<Metric> {
    let counters = &shared.counters;
    let realtime_lost = counters.realtime_lost.iter().map(read).sum();
    let events = [
        ("relay", "sent", read(&shared.accepted)),
        ("notify", "sent", read(&counters.notified)),
        ("notify", "lost", read(&counters.notify_lost)),
        ("realtime", "sent", read(&counters.realtime_sent)),
        ("realtime", "lost", realtime_lost),
    ];
    let mut metrics = events
        .map(|(transport, outcome, events)| {
            Metric::labelled(
                "pg_civic_events_total",
                "Events of committed transactions, by the transport that took them or lost them.",
                json!({"transport": transport, "outcome": outcome}),
                events,
            )
        })
        .to_vec();
    metrics.push(Metric::new(
        "pg_civic_bulk_events_total",
        "Events that report how many tickets a transaction has changed beyond civic.bulk_after.",
        read(&counters.bulk_events),
    ));
    metrics.push(Metric::new(
        "pg_civic_bulk_changes_total",
        "Changes of tickets that were counted in such events and not published one by one.",
        read(&counters.bulk_changes),
    ));
    metrics.push(Metric::new(
        "pg_civic_rate_limited_changes_total",
        "Changes of tickets that were counted for Supabase Realtime because of civic.realtime_rate.",
        read(&counters.realtime_folded),
    ));
    metrics.extend(RealtimeLoss::ALL.map(|reason| {
        Metric::labelled(
            "pg_civic_realtime_lost_events_total",
            "Events that were not stored for Supabase Realtime.",
            json!({"reason": reason.name()}),
            read(&counters.realtime_lost[reason as usize]),
        )
    }));
    metrics
}

fn media(shared: &Shared) -> Vec<Metric> {
    let counters = &shared.counters;
    let mut metrics = vec![
        Metric::new(
            "pg_civic_media_stored_bytes_total",
            "Bytes of the files that attempts at media jobs have stored.",
            read(&counters.media_bytes),
        ),
        Metric::new(
            "pg_civic_media_moved_files_total",
            "Files of sensitive tickets that were moved to gbv-evidence.",
            read(&counters.media_moved),
        ),
    ];
    for kind in Kind::ALL {
        metrics.extend(AttemptEnd::ALL.map(|outcome| {
            Metric::labelled(
                "pg_civic_media_attempts_total",
                "Attempts at media jobs that have ended.",
                json!({"kind": kind.name(), "outcome": outcome.name()}),
                read(&counters.media_attempts[kind as usize][outcome as usize]),
            )
        }));
        metrics.extend(JobEnd::ALL.map(|state| {
            Metric::labelled(
                "pg_civic_media_ended_jobs_total",
                "Media jobs that have ended, by their last state.",
                json!({"kind": kind.name(), "state": state.name()}),
                read(&counters.media_ended[kind as usize][state as usize]),
            )
        }));
    }
    metrics.extend(ErrorClass::ALL.map(|class| {
        Metric::labelled(
            "pg_civic_media_errors_total",
            "Attempts at media jobs that have failed.",
            json!({"class": class.name()}),
            read(&counters.media_errors[class as usize]),
        )
    }));
    metrics
}

fn uploads(shared: &Shared) -> Vec<Metric> {
    let refused = &shared.counters.refused_uploads;
    let metrics = bucket::ALL.map(|bucket| {
        Metric::labelled(
            "pg_civic_firewall_refused_uploads_total",
            "Uploads that the firewall has refused. Reads are not counted.",
            json!({"bucket": bucket.id()}),
            read(&refused[bucket as usize]),
        )
    });
    metrics.into()
}

/// None before the first check. The check itself would cost more than a scrape may, and the role that reads
/// metrics does not see all that it looks at.
fn checks(shared: &Shared) -> Vec<Metric> {
    let checked_at = read(&shared.counters.checked_at);
    if checked_at == 0 {
        return vec![];
    }
    vec![
        Metric::new(
            "pg_civic_checks_failing",
            "Findings of the last civic.check() by the extension's owner that were not ok.",
            read(&shared.counters.checks_failing),
        ),
        Metric::new(
            "pg_civic_checks_age_seconds",
            "Time since the last civic.check() by the extension's owner.",
            (pg::transaction::now() - checked_at as i64).max(0) as f64 / 1e6,
        ),
    ]
}
