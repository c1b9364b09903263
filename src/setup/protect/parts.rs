//! What `protect()` puts on one table or partition: policies and the trigger that guards columns.

use pgrx::datum::DatumWithOid;
use pgrx::spi::{quote_identifier, quote_literal};

use super::plan::{NAMES, RowPolicy, TENANT, guard, without_space};
use super::rules::Rules;
use super::tables::Target;
use crate::catalog;
use crate::error::Error;
use crate::setup::plan::{AS_MADE, Component, DONE, REMOVED, State, Step, step};
use crate::setup::relation::{Relation, RowSecurity};

/// The policies of one table.
pub struct Policies {
    pub relation: Relation,
    pub policies: Vec<RowPolicy>,
    /// The call of `protect()` that creates them.
    pub fix: String,
}

/// Name and definition of each of our policies on a table.
fn existing(relation: &Relation) -> Result<Vec<(String, String)>, Error> {
    let names: Vec<_> = NAMES.iter().map(|name| name.to_string()).collect();
    let arguments: [DatumWithOid<'_>; 2] = [relation.oid.into(), names.into()];
    catalog::rows(
        "SELECT p.polname::pg_catalog.text,
                pg_catalog.concat_ws('|',
                    CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
                    CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE'
                                  WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
                    (SELECT pg_catalog.string_agg(coalesce(r.rolname::pg_catalog.text, 'public'), ',')
                     FROM pg_catalog.unnest(p.polroles) o (oid)
                     LEFT JOIN pg_catalog.pg_roles r ON r.oid = o.oid),
                    coalesce(pg_catalog.pg_get_expr(p.polqual, p.polrelid), ''),
                    coalesce(pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid), ''))
         FROM pg_catalog.pg_policy p
         WHERE p.polrelid = $1 AND p.polname = ANY ($2)
         ORDER BY p.polname",
        &arguments,
        |row| {
            Ok((
                row.get::<String>(1)?.unwrap_or_default(),
                without_space(&row.get::<String>(2)?.unwrap_or_default()),
            ))
        },
    )
}

/// Whether a table has any of our policies.
pub fn has_policies(relation: &Relation) -> Result<bool, Error> {
    Ok(!existing(relation)?.is_empty())
}

/// What differs from the plan: policies to create, and names to drop first.
struct Difference<'a> {
    missing: Vec<&'a RowPolicy>,
    different: Vec<&'a RowPolicy>,
    surplus: Vec<String>,
}

impl Policies {
    fn difference(&self) -> Result<(usize, Difference<'_>), Error> {
        let existing = existing(&self.relation)?;
        let found = |policy: &RowPolicy| {
            existing.iter().find(|(name, _)| name == policy.name).map(|(_, text)| text)
        };
        let is_planned = |name: &str| self.policies.iter().any(|policy| policy.name == name);
        let of = |wanted: fn(Option<&String>, &RowPolicy) -> bool| {
            self.policies.iter().filter(|policy| wanted(found(policy), policy)).collect()
        };
        let difference = Difference {
            missing: of(|found, _| found.is_none()),
            different: of(|found, policy| found.is_some_and(|it| *it != policy.definition())),
            surplus: existing
                .iter()
                .filter(|(name, _)| !is_planned(name))
                .map(|(name, _)| name.clone())
                .collect(),
        };
        Ok((existing.len(), difference))
    }

    fn drop(&self, name: &str) -> Result<(), Error> {
        drop_policy(&self.relation, name)
    }
}

pub fn drop_policy(relation: &Relation, name: &str) -> Result<(), Error> {
    relation.execute(&format!("DROP POLICY {} ON {}", quote_identifier(name), relation.name))
}

fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}

fn names<'a>(policies: &[&'a RowPolicy]) -> impl Iterator<Item = &'a str> {
    policies.iter().map(|policy| policy.name).collect::<Vec<_>>().into_iter()
}

impl Component for Policies {
    fn name(&self) -> String {
        format!("policies of {}", self.relation.name)
    }

    fn state(&self) -> Result<State, Error> {
        let (count, difference) = self.difference()?;
        let Difference { missing, different, surplus } = &difference;
        if count == 0 {
            return Ok(State::Missing("missing: the table is not protected".to_owned()));
        }
        let mut faults = vec![];
        for (what, list) in [
            ("missing", listed(names(missing))),
            ("not as pg_civic creates them", listed(names(different))),
            ("of other arguments", listed(surplus.iter().map(String::as_str))),
        ] {
            if !list.is_empty() {
                faults.push(format!("{what}: {list}"));
            }
        }
        Ok(if faults.is_empty() {
            State::Installed(AS_MADE.to_owned())
        } else {
            State::Different(faults.join("; "))
        })
    }

    fn make(&self, was: &State) -> Result<Vec<Step>, Error> {
        let (_, Difference { missing, different, surplus }) = self.difference()?;
        let replaced = names(&different).chain(surplus.iter().map(String::as_str));
        for name in replaced.collect::<Vec<_>>() {
            self.drop(name)?;
        }
        for policy in missing.iter().chain(&different) {
            self.relation.execute(&policy.create_statement(&self.relation.name))?;
        }
        let detail = match was {
            State::Missing(_) => format!("created: {}", listed(names(&missing))),
            State::Different(why) => format!("repaired; they were {why}"),
            _ => AS_MADE.to_owned(),
        };
        Ok(vec![step(self.name(), DONE, detail)])
    }

    fn remove(&self) -> Result<Vec<Step>, Error> {
        remove_policies(&self.relation)
    }

    fn fix(&self, _state: &State) -> String {
        self.fix.clone()
    }
}

pub fn remove_policies(relation: &Relation) -> Result<Vec<Step>, Error> {
    let existing = existing(relation)?;
    if existing.is_empty() {
        return Ok(vec![]);
    }
    for (name, _) in &existing {
        drop_policy(relation, name)?;
    }
    let dropped = listed(existing.iter().map(|(name, _)| name.as_str()));
    Ok(vec![step(format!("policies of {}", relation.name), REMOVED, format!("dropped: {dropped}"))])
}

/// The tables that have the policy of the tenant, by an expression of ours.
pub fn with_policies() -> Result<Vec<pgrx::pg_sys::Oid>, Error> {
    let found = catalog::rows(
        "SELECT DISTINCT p.polrelid
         FROM pg_catalog.pg_policy p
         JOIN pg_catalog.pg_depend d
              ON d.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass AND d.objid = p.oid
             AND d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
         JOIN pg_catalog.pg_proc f ON f.oid = d.refobjid
         JOIN pg_catalog.pg_namespace n ON n.oid = f.pronamespace AND n.nspname = 'civic_firewall'
         WHERE p.polname = $1 AND NOT p.polpermissive",
        &[TENANT.into()],
        |row| row.get(1),
    )?;
    Ok(found.into_iter().flatten().collect())
}

/// What depends on a function behind the policies, by the description that the server gives it.
pub fn users_of_functions() -> Result<Vec<String>, Error> {
    catalog::texts(
        "SELECT DISTINCT pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid)
         FROM pg_catalog.pg_depend d
         JOIN pg_catalog.pg_proc f
              ON d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.refobjid = f.oid
         JOIN pg_catalog.pg_namespace n ON n.oid = f.pronamespace AND n.nspname = 'civic_firewall'
         ORDER BY 1",
        &[],
    )
}

const TRIGGER: &str = "civic_guard";
const FUNCTION: &str = "civic_firewall.guard_columns";

/// The trigger that guards columns. `arguments` is `None` where no column is guarded.
pub struct Guard {
    pub relation: Relation,
    arguments: Option<Vec<String>>,
    fix: String,
}

impl Guard {
    /// `None` for a partition: it gets the trigger of the whole table.
    pub fn of(target: &Target, rules: &Rules, fix: &str) -> Option<Guard> {
        (!target.is_partition).then(|| Guard {
            relation: target.relation.clone(),
            arguments: guard(rules),
            fix: fix.to_owned(),
        })
    }

    fn statement(&self, arguments: &[String]) -> String {
        let list: Vec<_> = arguments.iter().map(quote_literal).collect();
        format!(
            "CREATE TRIGGER {TRIGGER} AFTER INSERT OR UPDATE ON {} FOR EACH ROW \
             EXECUTE FUNCTION {FUNCTION}({})",
            self.relation.name,
            list.join(", ")
        )
    }

    fn drop(&self) -> Result<(), Error> {
        drop_guard(&self.relation)
    }
}

fn drop_guard(relation: &Relation) -> Result<(), Error> {
    relation.execute(&format!("DROP TRIGGER {TRIGGER} ON {}", relation.name))
}

/// Whether a table has the trigger, of its own.
fn has_guard(relation: &Relation) -> Result<bool, Error> {
    catalog::holds(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_trigger
                        WHERE tgrelid = $1 AND tgname = $2 AND tgparentid = 0)",
        &[relation.oid.into(), TRIGGER.into()],
    )
}

pub fn remove_guard(relation: &Relation) -> Result<Vec<Step>, Error> {
    if !has_guard(relation)? {
        return Ok(vec![]);
    }
    drop_guard(relation)?;
    Ok(vec![step(format!("trigger {TRIGGER} on {}", relation.name), REMOVED, "dropped")])
}

impl Component for Guard {
    fn name(&self) -> String {
        format!("trigger {TRIGGER} on {}", self.relation.name)
    }

    fn state(&self) -> Result<State, Error> {
        // Each argument ends in NUL, which no text can hold: compared as hexadecimal digits. AFTER (no
        // bit) INSERT (4) OR UPDATE (16) FOR EACH ROW (1).
        let hex: String = self
            .arguments
            .iter()
            .flatten()
            .map(|argument| {
                argument.bytes().map(|byte| format!("{byte:02x}")).collect::<String>() + "00"
            })
            .collect();
        let found = catalog::texts(
            "SELECT CASE
                 WHEN f.proname = 'guard_columns' AND n.nspname = 'civic_firewall'
                      AND t.tgtype = 21 AND t.tgqual IS NULL AND t.tgattr::pg_catalog.text = ''
                      AND t.tgconstraint = 0 AND pg_catalog.encode(t.tgargs, 'hex') = $3
                 THEN CASE WHEN t.tgenabled IN ('O', 'A') THEN 'installed' ELSE 'disabled' END
                 ELSE 'different' END
             FROM pg_catalog.pg_trigger t
             JOIN pg_catalog.pg_proc f ON f.oid = t.tgfoid
             JOIN pg_catalog.pg_namespace n ON n.oid = f.pronamespace
             WHERE t.tgrelid = $1 AND t.tgname = $2",
            &[self.relation.oid.into(), TRIGGER.into(), hex.into()],
        )?;
        let different = || State::Different(format!("not {AS_MADE}"));
        Ok(match (found.first().map(String::as_str), &self.arguments) {
            (None, None) => State::Unneeded("no column is guarded".to_owned()),
            (None, Some(_)) => State::Missing("missing".to_owned()),
            (Some(_), None) => State::Different("no column is guarded any more".to_owned()),
            (Some("installed"), _) => State::Installed("enabled".to_owned()),
            (Some("disabled"), _) => {
                State::Different("disabled: everybody sets the guarded columns".to_owned())
            }
            (Some(_), _) => different(),
        })
    }

    fn make(&self, was: &State) -> Result<Vec<Step>, Error> {
        if !was.is_missing() {
            self.drop()?;
        }
        let Some(arguments) = &self.arguments else { return Ok(self.dropped()) };
        self.relation.execute(&self.statement(arguments))?;
        Ok(self.made(was))
    }

    fn remove(&self) -> Result<Vec<Step>, Error> {
        remove_guard(&self.relation)
    }

    fn fix(&self, _state: &State) -> String {
        self.fix.clone()
    }
}

/// The policies of the application's own migrations, which these replace.
pub fn migrated(target: &Target) -> Result<Vec<String>, Error> {
    let table = &target.relname;
    let mut names: Vec<_> = ["isolation", "select", "insert", "update", "delete"]
        .iter()
        .map(|what| format!("tenant_{what}_{table}"))
        .collect();
    names.extend(
        [
            "managers_all_tickets",
            "ward_councillor_tickets",
            "citizen_own_tickets",
            "field_worker_assigned_tickets",
            "saps_gbv_tickets",
        ]
        .map(str::to_owned),
    );
    let arguments: [DatumWithOid<'_>; 2] = [target.relation.oid.into(), names.into()];
    catalog::texts(
        "SELECT p.polname FROM pg_catalog.pg_policy p
         WHERE p.polrelid = $1 AND p.polname = ANY ($2) AND p.polpermissive ORDER BY p.polname",
        &arguments,
    )
}

/// [`RowSecurity`] of a table of the application.
pub struct RowSecurityOf(pub RowSecurity);

impl Component for RowSecurityOf {
    fn name(&self) -> String {
        self.0.name()
    }

    fn state(&self) -> Result<State, Error> {
        self.0.state()
    }

    fn make(&self, was: &State) -> Result<Vec<Step>, Error> {
        self.0.make(was)
    }

    fn fix(&self, _state: &State) -> String {
        format!("ALTER TABLE {} ENABLE ROW LEVEL SECURITY;", self.0.0.name)
    }
}
