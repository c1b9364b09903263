use super::*;

fn event(name: &str, is_sensitive: bool) -> String {
    format!(
        "{{\"type\":\"{name}\",\"municipality_id\":\"t\",\"id\":1,\"is_sensitive\":{is_sensitive}}}"
    )
}

fn buffer(events: &[(Flags, u32, &str, &str)]) -> Buffer {
    let mut buffer = Buffer::default();
    for (flags, table, channel, payload) in events {
        buffer.push(1, *flags, *table, channel.as_bytes(), payload.as_bytes()).unwrap();
    }
    buffer
}

const WANTED: Flags = Flags::IF_INSTALLED;

fn sent(buffer: &Buffer) -> Vec<String> {
    let wanted = buffer.records().filter(|record| record.flags.has_any(WANTED));
    wanted.map(|record| String::from_utf8_lossy(record.channel()).into_owned()).collect()
}

/// Folds with so many messages left for each municipality.
fn fold_with(buffer: &mut Buffer, left: usize) -> Vec<Folded> {
    let mut taken = std::collections::HashMap::new();
    fold(
        buffer,
        0,
        |flags| flags.has(WANTED),
        |id: &[u8]| {
            let taken = taken.entry(id.to_vec()).or_insert(0);
            *taken += 1;
            *taken <= left
        },
    )
}

#[test]
fn what_exceeds_the_rate_is_counted_by_municipality_channel_and_operation() {
    let (insert, update) = (event("INSERT", false), event("UPDATE", false));
    let (redacted, whole) = (event("DELETE", true), event("DELETE", true));
    let bulk = "{\"type\":\"BULK\",\"is_sensitive\":false,\"insert\":5,\"update\":6,\"delete\":7}";
    let both = WANTED.with(Flags::NOTIFY);
    let mut events = buffer(&[
        (both, 1, "ticket_updates:t", &insert),
        (both, 1, "ticket_updates:t", &update),
        (both, 1, "ticket_updates:u", &insert),
        (both, 1, "ticket_updates:t", &redacted),
        (both, 1, "ticket_updates:t:sensitive", &whole),
        (both.with(Flags::BULK), 0, "ticket_updates:t", bulk),
    ]);
    let folded = fold_with(&mut events, 1);
    assert_eq!(sent(&events), ["ticket_updates:t", "ticket_updates:u"]);
    assert_eq!(events.events_from(0, Flags::NOTIFY).count(), 6, "NOTIFY is not limited");
    let [folded] = &folded[..] else { panic!("{folded:?}") };
    assert_eq!(&*folded.municipality, b"t");
    assert_eq!(folded.changes, [[5, 7, 7], [0, 0, 1], [0, 0, 1]]);
    let before = events.len();
    report_now(&mut events, std::slice::from_ref(folded), 0).unwrap();
    let reports: Vec<_> = events.records_from(before).collect();
    assert!(reports.iter().all(|it| it.flags == WANTED.with(Flags::BULK)));
    let text = |record: &Record<'_>| String::from_utf8_lossy(record.payload()).into_owned();
    assert!(
        text(&reports[0]).contains("\"is_sensitive\":false,\"insert\":5,\"update\":7,\"delete\":7")
    );
    assert!(
        text(&reports[1]).contains("\"is_sensitive\":true,\"insert\":0,\"update\":0,\"delete\":1")
    );
    assert_eq!(reports[2].channel(), b"ticket_updates:t:sensitive");
}

/// An ordinary version of a ticket that the transaction makes sensitive is sent whole, to the sensitive channel alone.
#[test]
fn on_the_channel_for_sensitive_tickets_everything_counts_as_sensitive() {
    let whole = event("UPDATE", false);
    let mut events = buffer(&[(WANTED, 1, "ticket_updates:t:sensitive", &whole)]);
    assert_eq!(fold_with(&mut events, 0)[0].changes, [[0; 3], [0; 3], [0, 1, 0]]);
}

#[test]
fn an_event_of_the_application_is_always_sent() {
    let own = "{\"type\":\"INSERT\",\"is_sensitive\":false}";
    let mut events = buffer(&[
        (WANTED, 0, "ticket_updates:t", own),
        (WANTED, 0, "ticket_updates:t", "{\"type\":\"shift_over\"}"),
    ]);
    assert!(fold_with(&mut events, 0).is_empty());
    assert_eq!(sent(&events).len(), 2);
}

#[test]
fn an_owner_hears_of_the_changes_that_the_municipality_hears_of() {
    let insert = event("INSERT", false);
    let owner = WANTED.with(Flags::OWNER);
    let mut events = buffer(&[
        (WANTED, 1, "ticket_updates:t", &insert),
        (owner, 1, "ticket_owner:a", &insert),
        (WANTED, 1, "ticket_updates:t", &insert),
        (owner, 1, "ticket_owner:b", &insert),
    ]);
    let folded = fold_with(&mut events, 2);
    assert_eq!(sent(&events), ["ticket_updates:t", "ticket_owner:a"]);
    assert_eq!(folded[0].total(), 1, "the owner's copy is no change of its own");
}

#[test]
fn an_event_that_cannot_be_read_is_sent() {
    let mut events = buffer(&[(WANTED, 1, "ticket_updates:t", "{")]);
    assert!(fold_with(&mut events, 0).is_empty());
    assert_eq!(sent(&events).len(), 1);
}
