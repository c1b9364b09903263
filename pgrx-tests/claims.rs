//! Who is asking: the claims as a session sees them.

use super::support::{Database, OTHER_TENANT, TENANT, claims, literal};

#[test]
fn the_claims_name_tenant_role_and_user() {
    let mut session = Database::plain().superuser();
    session.run(&format!("SET request.jwt.claims = {}", literal(&claims(TENANT, "SAPS_LIAISON"))));
    assert_eq!(session.text("SELECT civic.tenant_id()"), TENANT);
    assert_eq!(session.text("SELECT civic.user_role()"), "SAPS_LIAISON");
    assert_eq!(session.text("SELECT civic.user_id()"), "8f14e45f-0000-4000-8000-000000000000");
    assert_eq!(session.text("SELECT civic.has_role('admin', 'saps_liaison')"), "t");
    assert_eq!(session.text("SELECT civic.has_role('admin')"), "f");
}

#[test]
fn a_changed_value_is_seen_at_the_next_call() {
    let mut session = Database::plain().superuser();
    let set = |scope: &str, tenant_id: &str| {
        format!("SET {scope} request.jwt.claims = {}", literal(&claims(tenant_id, "citizen")))
    };
    session.run(&set("", TENANT));
    session.run(&format!("BEGIN; {}", set("LOCAL", OTHER_TENANT)));
    assert_eq!(session.text("SELECT civic.tenant_id()"), OTHER_TENANT);
    session.run(&format!("SAVEPOINT s; {}", set("LOCAL", "third")));
    assert_eq!(session.text("SELECT civic.tenant_id()"), "third");
    session.run("ROLLBACK TO s");
    assert_eq!(session.text("SELECT civic.tenant_id()"), OTHER_TENANT);
    session.run("COMMIT");
    assert_eq!(session.text("SELECT civic.tenant_id()"), TENANT);
    session.run("RESET request.jwt.claims");
    assert_eq!(session.value("SELECT civic.tenant_id()"), None);
}
