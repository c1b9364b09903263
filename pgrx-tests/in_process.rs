//! Tests that run in a backend.

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::pg;
    use crate::pg::wait::in_thread;

    #[pg_test]
    fn the_result_of_a_thread_is_returned() {
        assert_eq!(in_thread("test", || (), || 42), Ok(42));
    }

    #[pg_test]
    fn a_panic_of_a_thread_is_an_error_and_the_backend_continues() {
        for _ in 0..3 {
            let result = in_thread("test", || (), || -> i32 { panic!("on purpose") });
            assert_eq!(result, Err(pg::Error::Panicked));
        }
        assert_eq!(Spi::get_one::<i32>("SELECT 1"), Ok(Some(1)));
    }

    #[pg_test]
    fn many_threads_in_sequence_leave_no_open_files() {
        let open = || std::fs::read_dir("/proc/self/fd").expect("Linux").count();
        let _ = in_thread("test", || (), || ());
        let before = open();
        for _ in 0..50 {
            let _ = in_thread("test", || (), || ());
        }
        // The last thread may still be closing its files.
        assert!(open() <= before + 2, "{} and {before}", open());
    }
}
