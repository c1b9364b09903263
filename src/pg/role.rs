//! Acting with the rights of another role.

use pgrx::pg_sys;

/// The superuser that initdb made. The server never drops it or takes its rights away.
pub const BOOTSTRAP_SUPERUSER: pg_sys::Oid = pg_sys::Oid::from_u32(pg_sys::BOOTSTRAP_SUPERUSERID);

/// Whether the current user has the rights of a role, without SET ROLE.
pub fn has_rights_of(role: pg_sys::Oid) -> bool {
    // SAFETY: reads this backend's current user and looks up memberships.
    unsafe { pg_sys::has_privs_of_role(pg_sys::GetUserId(), role) }
}

pub fn is_superuser(role: pg_sys::Oid) -> bool {
    // SAFETY: a look-up of a role; one that does not exist is no superuser.
    unsafe { pg_sys::superuser_arg(role) }
}

/// Whether the current user is a superuser.
pub fn is_current_superuser() -> bool {
    // SAFETY: reads this backend's current user.
    is_superuser(unsafe { pg_sys::GetUserId() })
}

/// Whether the server can leave event triggers out for one statement (`event_triggers`).
pub const CAN_DISABLE_EVENT_TRIGGERS: bool = cfg!(not(any(feature = "pg15", feature = "pg16")));

/// As [`acting_as`], for statements that change the catalog. No event trigger fires while a superuser
/// is acted as: its function belongs to anybody and would run with the superuser's rights. Where the
/// server cannot leave them out, the caller makes sure that there are none
/// ([`CAN_DISABLE_EVENT_TRIGGERS`]).
pub fn defining_as<R>(role: pg_sys::Oid, act: impl FnOnce() -> R) -> R {
    acting_as(role, || {
        if CAN_DISABLE_EVENT_TRIGGERS && is_superuser(role) {
            // SAFETY: a setting that this server has, in the nest level that `acting_as` has opened
            // and takes back.
            unsafe {
                pg_sys::set_config_option(
                    c"event_triggers".as_ptr(),
                    c"off".as_ptr(),
                    pg_sys::GucContext::PGC_SUSET,
                    pg_sys::GucSource::PGC_S_SESSION,
                    pg_sys::GucAction::GUC_ACTION_SAVE,
                    true,
                    0,
                    false,
                );
            }
        }
        act()
    })
}

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
