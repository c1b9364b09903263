//! The policies of the application's migrations against the same model: each difference is a known hole.

use std::collections::BTreeMap;

use super::rules::Outcome;
use super::{Decision, Random, World, askers, cases, decide, pieces, prepared, shown};

/// The policies of the application's migrations, for these tables.
const BY_HAND: &str = "
    DO $$
    DECLARE
        name text;
        mine text := 'tenant_id = (SELECT auth.jwt() -> ''app_metadata'' ->> ''tenant_id'')';
        role text := '(SELECT auth.jwt() -> ''app_metadata'' ->> ''role'')';
    BEGIN
        FOREACH name IN ARRAY ARRAY['cases', 'cases_1', 'cases_2', 'pieces', 'old_pieces'] LOOP
            EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
            EXECUTE format('CREATE POLICY a ON %I FOR INSERT TO authenticated WITH CHECK (%s)', name, mine);
            EXECUTE format('CREATE POLICY b ON %I FOR UPDATE TO authenticated USING (%s)', name, mine);
            EXECUTE format('CREATE POLICY c ON %I FOR DELETE TO authenticated USING (%s)', name, mine);
            IF name LIKE '%pieces' THEN
                EXECUTE format('CREATE POLICY d ON %I FOR SELECT TO authenticated USING (%s)', name, mine);
            ELSE
                EXECUTE format('CREATE POLICY d ON %I FOR SELECT TO authenticated USING (%s AND (
                    %s IN (''manager'', ''admin'') AND (NOT secret OR %3$s = ''admin'')
                    OR %3$s = ''ward_councillor'' AND NOT secret
                    OR %3$s = ''citizen'' AND creator = (auth.jwt() ->> ''sub'') AND NOT secret
                    OR %3$s IN (''saps_liaison'', ''admin'') AND secret))', name, mine, role);
            END IF;
        END LOOP;
    END $$";

/// The holes of the policies by hand, as docs/security.md has them under "Against".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Hole {
    /// Every member of the municipality changes and deletes rows that they do not read.
    Writes,
    /// Every member inserts rows of others.
    Inserts,
    /// Each role that changes a row sets its guarded column.
    GuardedColumn,
    /// Rows are shown whose ticket is not.
    WithoutTicket,
    /// Roles in capitals, the mayor, owners by another column and assigned workers see nothing, and
    /// liaisons see sensitive rows only.
    Blind,
}

/// The hole behind a difference.
fn hole(decision: &Decision<'_>) -> Option<Hole> {
    use Outcome::{Done, Nothing, Refused};
    let Decision { command, found, expected, .. } = decision;
    match (found, expected) {
        (Done, _) if command.starts_with("INSERT") || command.ends_with("inserts") => {
            Some(Hole::Inserts)
        }
        (Done, _) if command.contains("guarded") => Some(Hole::GuardedColumn),
        (Done, _) if *command == "SELECT of pieces" => Some(Hole::WithoutTicket),
        (Done, _) if command.starts_with("SELECT") || *command == "COPY TO" => None,
        (Done, _) | (Refused, Nothing) => Some(Hole::Writes),
        (Nothing | Refused, Done) | (Nothing, Refused) => Some(Hole::Blind),
        _ => None,
    }
}

#[test]
fn each_difference_of_the_policies_by_hand_is_a_known_hole() {
    let mut random = Random(20260211);
    let world = World { cases: cases(&mut random), pieces: pieces(&mut random) };
    let mut session = prepared(&world, BY_HAND);
    let mut holes = BTreeMap::new();
    decide(&mut session, &world, &askers(&mut random), |decision| {
        if decision.found != decision.expected {
            let hole = hole(&decision).unwrap_or_else(|| panic!("{}", shown(&decision)));
            *holes.entry(hole).or_insert(0) += 1;
        }
    });
    let seen: Vec<_> = holes.keys().copied().collect();
    let all = [Hole::Writes, Hole::Inserts, Hole::GuardedColumn, Hole::WithoutTicket, Hole::Blind];
    assert_eq!(seen, all, "{holes:?}");
}
