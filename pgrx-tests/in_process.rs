//! Tests that run in a backend.

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::pg;
    use crate::pg::wait::in_thread;

    #[pg_test]
    fn what_a_thread_gives_is_given() {
        assert_eq!(in_thread("test", || (), || 42), Ok(42));
    }

    #[pg_test]
    fn the_panic_of_a_thread_is_an_error_and_the_backend_lives() {
        for _ in 0..3 {
            let result = in_thread("test", || (), || -> i32 { panic!("on purpose") });
            assert_eq!(result, Err(pg::Error::Panicked));
        }
        assert_eq!(Spi::get_one::<i32>("SELECT 1"), Ok(Some(1)));
    }

    #[pg_test]
    fn many_threads_one_after_the_other_leave_nothing_open() {
        let open = || std::fs::read_dir("/proc/self/fd").expect("Linux").count();
        let _ = in_thread("test", || (), || ());
        let before = open();
        for _ in 0..50 {
            let _ = in_thread("test", || (), || ());
        }
        // The last thread may still be closing its own.
        assert!(open() <= before + 2, "{} and {before}", open());
    }
}
