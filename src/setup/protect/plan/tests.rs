use super::super::rules::tests::{column, request, tickets};
use super::super::rules::{Readable, Request};
use super::*;

fn planned(request: Request, table: &Table) -> Vec<RowPolicy> {
    let rules = Rules::resolve(request, table).unwrap();
    policies(&rules, table, None).unwrap()
}

fn find<'a>(policies: &'a [RowPolicy], name: &str) -> &'a RowPolicy {
    policies.iter().find(|policy| policy.name == name).unwrap()
}

#[test]
fn the_policies_of_the_table_of_tickets() {
    let policies = planned(request(), &tickets());
    let using = |name: &str| find(&policies, name).using.clone().unwrap();
    assert_eq!(using(TENANT), "((tenant_id)::text = civic_firewall.tenant_id())");
    let sensitive = "((is_sensitive IS FALSE) OR civic_firewall.reads_sensitive())";
    assert_eq!(using("civic 2 sensitive read"), sensitive);
    let writers = "(civic_firewall.writes() OR (assigned_to = civic_firewall.user_uuid()))";
    assert_eq!(using("civic 4 update"), writers);
    assert_eq!(using("civic update"), writers);
    assert_eq!(
        using("civic read"),
        "(((tenant_id)::text >= civic_firewall.staff_floor()) \
         OR (user_id = civic_firewall.user_uuid()) \
         OR ((created_by)::text = civic_firewall.user_id()) \
         OR (assigned_to = civic_firewall.user_uuid()))"
    );
    let insert = find(&policies, "civic insert").check.clone().unwrap();
    assert!(insert.contains("(user_id IS NULL) OR (user_id = civic_firewall.user_uuid())"));
    assert!(insert.ends_with("AND (assigned_to IS NULL)))"), "{insert}");
}

#[test]
fn restrictive_policies_hold_everybody_and_permissive_ones_open_to_users() {
    for policy in planned(request(), &tickets()) {
        let role = if policy.is_permissive { "authenticated" } else { "public" };
        assert_eq!(policy.role(), role, "{}", policy.name);
        let is_numbered = policy.name.as_bytes()["civic ".len()].is_ascii_digit();
        assert_eq!(policy.is_permissive, !is_numbered, "{}", policy.name);
    }
}

#[test]
fn each_policy_has_one_of_the_known_names_and_the_restrictive_ones_are_sorted() {
    let policies = planned(request(), &tickets());
    for policy in &policies {
        assert!(NAMES.contains(&policy.name), "{}", policy.name);
    }
    let restrictive: Vec<_> =
        NAMES.iter().filter(|name| name.as_bytes()["civic ".len()].is_ascii_digit()).collect();
    assert!(restrictive.windows(2).all(|pair| pair[0][..7] <= pair[1][..7]));
}

#[test]
fn a_row_is_never_opened_by_an_update_check_alone() {
    for policy in planned(request(), &tickets()) {
        if policy.check.as_deref() == Some(TRUE) {
            assert_eq!(policy.command, "UPDATE", "{}", policy.name);
            assert!(policy.using.is_some_and(|using| using.contains("civic_firewall.")));
        }
    }
}

#[test]
fn uuid_columns_are_compared_with_uuids() {
    let mut table = tickets();
    table.columns[1] = column("tenant_id", Kind::Uuid, true);
    let policies = planned(request(), &table);
    let tenant = find(&policies, TENANT).using.clone().unwrap();
    assert_eq!(tenant, "(tenant_id = civic_firewall.tenant_uuid())");
    let read = find(&policies, "civic read").using.clone().unwrap();
    assert!(read.starts_with("((tenant_id >= civic_firewall.staff_floor_uuid()) OR"), "{read}");
}

#[test]
fn text_that_compares_without_regard_to_case_is_compared_by_bytes() {
    let mut table = tickets();
    table.columns[1].is_deterministic = false;
    let tenant = find(&planned(request(), &table), TENANT).using.clone().unwrap();
    assert_eq!(tenant, "(((tenant_id)::text COLLATE \"C\") = civic_firewall.tenant_id())");
}

#[test]
fn a_table_of_the_whole_tenant_is_read_by_it_and_changed_by_staff() {
    let request = Request { readable: Readable::Tenant, ..request() };
    let policies = planned(request, &tickets());
    assert_eq!(find(&policies, "civic read").using, find(&policies, TENANT).using);
    let writers = find(&policies, "civic update").using.clone().unwrap();
    assert!(writers.contains(WRITES));
}

#[test]
fn without_owner_columns_only_writing_staff_insert() {
    let request = Request { owners: Some(vec![]), ..request() };
    let policies = planned(request, &tickets());
    assert_eq!(find(&policies, "civic insert").check.as_deref(), Some(WRITES));
}

#[test]
fn a_row_follows_its_ticket_by_a_column_of_the_same_type() {
    let mut child = tickets();
    child.short_name = "media".to_owned();
    child.columns.push(column("ticket_id", Kind::Uuid, true));
    let rules = Rules::resolve(request(), &child).unwrap();
    let of = |kind| Tickets { name: "town.tickets".to_owned(), id: column("id", kind, true) };
    let policies = policies(&rules, &child, Some(&of(Kind::Uuid))).unwrap();
    assert_eq!(
        find(&policies, "civic 3 ticket").using.as_deref(),
        Some(
            "((ticket_id IS NULL) OR (EXISTS ( SELECT FROM town.tickets civic_ticket \
             WHERE (civic_ticket.id = media.ticket_id))))"
        )
    );
    for kind in [Kind::Text, Kind::Other(20), Kind::Boolean] {
        assert!(super::policies(&rules, &child, Some(&of(kind))).is_err(), "{kind:?}");
    }
    child.short_name = "civic_ticket".to_owned();
    let policies = super::policies(&rules, &child, Some(&of(Kind::Uuid))).unwrap();
    let using = find(&policies, "civic 3 ticket").using.clone().unwrap();
    assert!(using.contains("civic_parent.id = civic_ticket.ticket_id"), "{using}");
}

#[test]
fn the_guard_knows_the_tenants_and_the_owners_columns() {
    let mut users = tickets();
    users.columns.push(column("role", Kind::Other(99), true));
    let request = Request { owners: Some(vec!["id".to_owned()]), ..request() };
    let rules = Rules::resolve(request, &users).unwrap();
    assert_eq!(guard(&rules).unwrap(), ["t:tenant_id", "o:id", "g:role", "g:tenant_id", "g:id"]);
    assert_eq!(guard(&Rules { guarded: vec![], ..rules }), None);
}
