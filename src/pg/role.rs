//! Acting with the rights of another role.

use pgrx::pg_sys;

/// Does something with the rights of another role. Whatever that role has put on a table, a trigger
/// or a policy or a cast, can then do what the role could and no more: it cannot become anybody else,
/// and leaves nothing behind that would run later as somebody else, no deferred trigger and no
/// setting. In the server's words it is a security-restricted operation, as REINDEX is.
pub fn acting_as<R>(role: pg_sys::Oid, act: impl FnOnce() -> R) -> R {
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    let acting =
        (pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION) as i32;
    // SAFETY: reads and sets variables of this process; what was there before comes back below, and
    // by the server itself where an error ends the transaction.
    let before = unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        let settings = pg_sys::NewGUCNestLevel();
        pg_sys::SetUserIdAndSecContext(role, context | acting);
        Before { user, context, settings }
    };
    let result = act();
    // SAFETY: takes back what was set since, as no error has done. Where one has, the transaction's
    // end does.
    unsafe { pg_sys::AtEOXact_GUC(false, before.settings) };
    result
}

struct Before {
    user: pg_sys::Oid,
    context: i32,
    settings: i32,
}

impl Drop for Before {
    fn drop(&mut self) {
        // SAFETY: sets back what was read, an error on its way or not.
        unsafe { pg_sys::SetUserIdAndSecContext(self.user, self.context) };
    }
}
