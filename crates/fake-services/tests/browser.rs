//! docs/browser/ticket-updates.js and the code of docs/browsers.md, with the real supabase-js against a
//! fake of Realtime's protocol. Each scenario runs in a node of its own, on a clock that the scenario moves.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::{Command, Output};

/// Writes past the test harness, which shows only the output of failed tests.
fn skipped(test: &str, why: &str) {
    let line = format!("{test} is skipped: {why}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// What node makes of a script in crates/fake-services/browser; `None` if this machine cannot run it.
fn node(test: &str, arguments: &[&str]) -> Option<Output> {
    // `make test` sets it if npm could fetch the packages.
    let directory = std::env::var("PG_CIVIC_SUPABASE_JS").unwrap_or_default();
    if !Path::new(&directory).join("node_modules/@supabase/supabase-js").is_dir() {
        skipped(
            test,
            "PG_CIVIC_SUPABASE_JS names no directory with the npm package @supabase/supabase-js",
        );
        return None;
    }
    let scripts = concat!(env!("CARGO_MANIFEST_DIR"), "/browser");
    match Command::new("node").current_dir(scripts).args(arguments).output() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            skipped(test, "node is not installed");
            None
        }
        output => Some(output.expect("node runs")),
    }
}

fn assert_success(output: &Output) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (shown, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}\n{shown}\n{errors}", output.status);
}

macro_rules! scenarios {
    ($($name:ident)*) => {
        const SCENARIOS: &[&str] = &[$(stringify!($name)),*];
        $(#[test]
        fn $name() {
            if let Some(output) = node(stringify!($name), &["run.mjs", stringify!($name)]) {
                assert_success(&output);
            }
        })*
    };
}

scenarios! {
    a_channel_that_flaps_is_joined_with_growing_pauses
    a_channel_that_is_refused_while_the_database_is_down_is_joined_later
    a_channel_that_never_becomes_ready_is_joined_again
    a_channel_that_the_page_itself_removes_is_joined_again
    a_client_with_its_own_access_token_function_recovers_too
    a_database_restart_that_no_channel_reports_is_made_good_within_a_minute
    a_hidden_page_that_becomes_visible_reads_at_once
    a_connection_that_the_browser_forbids_is_reported_and_the_list_is_read
    a_network_that_swallows_everything_is_noticed
    a_page_that_becomes_visible_does_not_wait_for_a_pause_to_end
    a_role_of_which_the_token_knows_nothing_yet_is_found_by_renewing_it
    a_role_that_is_given_back_is_noticed
    a_role_that_was_taken_away_is_reported_once_and_not_tried_again_fast
    a_server_that_was_gone_from_the_start_is_joined_when_it_comes
    a_server_that_was_gone_is_joined_again_and_missed_events_are_read
    a_socket_that_the_page_itself_closes_is_opened_again
    a_token_that_only_the_server_sees_as_expired_is_renewed
    a_topic_can_be_watched_again_after_stop_but_not_twice
    a_user_is_not_refused_because_their_session_could_not_be_renewed
    an_expired_token_is_renewed_and_the_channel_joined_again
    joined_late_the_list_is_read_when_events_begin_to_flow
    replay_brings_the_newest_missed_events_once
    replay_works_after_a_lost_connection_too
    replayed_events_of_an_earlier_time_do_not_change_the_list
    stop_ends_an_attempt_that_waits
    stop_ends_an_attempt_that_waits_for_a_new_session
    stop_ends_the_reads_also_while_one_is_on_its_way
    stop_leaves_the_channel_and_nothing_runs_after_it
    the_fake_refuses_and_reports_as_the_real_server_does
    with_an_older_realtime_events_arrive_and_the_channel_is_left_in_peace
    without_a_session_the_page_is_refused_and_stays_quiet
    a_bulk_event_and_a_truncated_one_are_answered_by_a_read
    an_import_beyond_bulk_after_is_answered_by_one_read
    a_burst_is_shown_once
    a_citizen_receives_their_own_tickets_on_their_own_topic
    a_column_that_the_list_does_not_have_is_not_added_as_null
    a_list_with_keep_shows_only_its_tickets
    a_police_liaison_follows_both_topics
    a_read_that_fails_is_reported_and_tried_again_with_growing_pauses
    a_read_that_is_asked_for_during_another_one_follows_it
    a_read_that_never_ends_is_given_up
    a_redacted_event_never_empties_a_ticket_that_the_policy_shows
    a_ticket_moved_to_another_municipality_leaves_the_list_and_comes_back
    a_ticket_that_becomes_sensitive_leaves_a_managers_list_at_once
    a_topic_of_another_user_or_municipality_is_refused
    a_truncated_event_of_a_sensitive_ticket_is_answered_by_a_read
    above_the_rate_limit_the_page_catches_up_within_a_minute
    an_event_without_a_time_leaves_the_time_as_it_was
    an_event_older_than_the_row_that_was_read_does_not_overwrite_it
    bulk_events_without_end_do_not_put_off_the_read
    errors_of_the_pages_own_callbacks_stop_nothing
    events_change_the_list_at_once
    events_of_the_application_reach_on_event_and_not_the_list
    events_that_arrive_during_a_read_are_applied_after_it
    events_with_one_time_apply_in_the_order_of_their_arrival
    load_may_return_rows_and_may_fail_in_any_way
    no_payload_breaks_the_updates
    the_list_is_read_about_once_a_minute_and_not_at_the_same_moment_everywhere
    no_event_of_a_citizens_hour_is_missing_at_the_end
    no_event_of_a_liaisons_hour_is_missing_at_the_end
    no_event_of_a_scripted_hour_is_missing_at_the_end
    a_public_page_receives_nothing_from_the_database_and_what_anybody_sends
    every_block_of_javascript_in_the_documentation_is_run
    the_citizens_page_of_the_documentation_runs
    the_code_without_the_module_runs
    the_dashboard_page_of_the_documentation_runs
    the_page_for_postgres_changes_runs_where_only_private_channels_are_allowed
    the_react_hook_of_the_documentation_runs
    the_upload_of_the_documentation_runs
}

#[test]
fn every_scenario_is_a_test() {
    let Some(output) = node("every_scenario_is_a_test", &["run.mjs"]) else { return };
    assert_success(&output);
    let names = String::from_utf8(output.stdout).expect("names");
    assert_eq!(names.lines().collect::<BTreeSet<_>>(), SCENARIOS.iter().copied().collect());
}

/// Runs a script with the name of the browser, if there is one.
fn chromium(test: &str, script: &str) {
    let is_there = |program: &&str| Command::new(program).arg("--version").output().is_ok();
    let mut programs = ["chromium", "chromium-browser", "google-chrome"].into_iter();
    let Some(program) = programs.find(is_there) else {
        return skipped(test, "no Chromium is installed");
    };
    if let Some(output) = node(test, &[script, program]) {
        assert_success(&output);
    }
}

#[test]
fn the_dashboard_page_of_the_documentation_works_in_chromium() {
    chromium("the_dashboard_page_of_the_documentation_works_in_chromium", "chromium/dashboard.mjs");
}

#[test]
fn every_scenario_of_the_module_passes_in_chromium() {
    chromium("every_scenario_of_the_module_passes_in_chromium", "chromium/scenarios.mjs");
}
