//! pg_civic: storage and ticket events for municipal platforms, separated by tenant inside the
//! database.

use pgrx::prelude::*;

mod catalog;
mod claims;
mod error;
mod events;
mod media;
mod metrics;
#[allow(unsafe_code)]
mod pg;
mod relay;
mod settings;
mod setup;
mod storage;
mod tickets;

extension_sql_file!("../sql/bootstrap.sql", name = "bootstrap", bootstrap);
extension_sql_file!(
    "../sql/access.sql",
    name = "access",
    requires =
        [readable_buckets, tenant_folder_start, tenant_folder_end, in_tenant_folder, list_bounds]
);
extension_sql_file!(
    "../sql/overloads.sql",
    name = "overloads",
    requires = [confirm_upload, enqueue_media, download_and_upload_media, mark_sensitive]
);
extension_sql_file!("../sql/media.sql", name = "media", requires = [tenant_id, readable_buckets]);
extension_sql_file!("../sql/setup.sql", name = "setup_tables", requires = [tenant_id]);
extension_sql_file!("../sql/prepared.sql", name = "prepared_events", requires = [tenant_id]);
extension_sql_file!("../sql/metrics.sql", name = "metrics_view", requires = [metrics]);
extension_sql_file!("../sql/protect.sql", name = "protect_tables", requires = [tenant_id]);
extension_sql_file!("../sql/event_stream.sql", name = "event_stream", requires = [tenant_id]);
extension_sql_file!(
    "../sql/finalize.sql",
    name = "finalize",
    requires = [
        "access",
        "event_stream",
        "media",
        "metrics_view",
        "overloads",
        "prepared_events",
        "protect_tables",
        "setup_tables"
    ],
    finalize
);

::pgrx::pg_module_magic!(name, version);

#[allow(unsafe_code)]
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    pg::memory::end_session_on_failure();
    settings::define();
    if pg::is_preloading() {
        pg::transaction::observe::<pg::shared::counters::Counted>();
        relay::initialize();
        media::initialize();
    }
    media::observe();
    events::initialize();
}

#[cfg(any(test, feature = "pg_test"))]
#[path = "../pgrx-tests/boot.rs"]
mod boot;

#[cfg(any(test, feature = "pg_test"))]
#[path = "../pgrx-tests/in_process.rs"]
mod in_process;

#[cfg(test)]
#[path = "../pgrx-tests/mod.rs"]
mod pg_tests;

/// pgrx's test framework expects this module at this path.
#[cfg(test)]
pub mod pg_test {
    pub fn setup(_options: Vec<&str>) {}

    pub fn postgresql_conf_options() -> Vec<&'static str> {
        crate::pg_tests::CONFIGURATION.to_vec()
    }
}
