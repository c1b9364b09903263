//! Acting with the rights of another role.

use pgrx::pg_sys;

/// What the other role's own code, in triggers and defaults and policies of its tables, may do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Restriction {
    /// What it could in a function of that role with SECURITY DEFINER.
    None,
    /// Nothing that outlives the call: no temporary tables, no deferred triggers.
    Reading,
}

/// Does something with the rights of another role. Whatever that role has put on a table can then do
/// what the role could and no more: it cannot become anybody else.
pub fn acting_as<R>(role: pg_sys::Oid, restriction: Restriction, act: impl FnOnce() -> R) -> R {
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    let mut acting = pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32;
    if restriction == Restriction::Reading {
        acting |= pg_sys::SECURITY_RESTRICTED_OPERATION as i32;
    }
    // SAFETY: reads and sets variables of this process; what was there before comes back below, and
    // by the server itself where an error ends the transaction.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        pg_sys::SetUserIdAndSecContext(role, context | acting);
    }
    let _before = Before { user, context };
    act()
}

struct Before {
    user: pg_sys::Oid,
    context: i32,
}

impl Drop for Before {
    fn drop(&mut self) {
        // SAFETY: sets back what was read, an error on its way or not.
        unsafe { pg_sys::SetUserIdAndSecContext(self.user, self.context) };
    }
}
