//! Acting with the rights of another role.

use pgrx::pg_sys;

/// The superuser that initdb made. The server never drops it or revokes its rights.
pub const BOOTSTRAP_SUPERUSER: pg_sys::Oid = pg_sys::Oid::from_u32(pg_sys::BOOTSTRAP_SUPERUSERID);

/// Whether the current user has the rights of a role, without SET ROLE.
pub fn has_rights_of(role: pg_sys::Oid) -> bool {
    // SAFETY: reads this backend's current user and looks up memberships.
    unsafe { pg_sys::has_privs_of_role(pg_sys::GetUserId(), role) }
}

/// Whether the current user is a superuser or has BYPASSRLS.
pub fn bypasses_row_security() -> bool {
    // SAFETY: reads this backend's current user and looks up its attributes.
    unsafe { pg_sys::has_bypassrls_privilege(pg_sys::GetUserId()) }
}

pub fn is_superuser(role: pg_sys::Oid) -> bool {
    // SAFETY: looks up a role; a role that does not exist is not a superuser.
    unsafe { pg_sys::superuser_arg(role) }
}

/// Whether the current user is a superuser.
pub fn is_current_superuser() -> bool {
    // SAFETY: reads this backend's current user.
    is_superuser(unsafe { pg_sys::GetUserId() })
}

/// Whether the server can leave event triggers out for one statement (`event_triggers`).
pub const CAN_DISABLE_EVENT_TRIGGERS: bool = cfg!(not(any(feature = "pg15", feature = "pg16")));

/// Like [`acting_as`], for statements that change the catalog. While it acts as a superuser, no
/// event trigger fires: any role may own the trigger's function, which would run with the
/// superuser's rights. On servers that cannot disable event triggers
/// ([`CAN_DISABLE_EVENT_TRIGGERS`]), the caller must check that there are none.
pub fn defining_as<R>(role: pg_sys::Oid, act: impl FnOnce() -> R) -> R {
    acting_as(role, || {
        if CAN_DISABLE_EVENT_TRIGGERS && is_superuser(role) {
            // SAFETY: this server has the setting. It is set in the nest level that `acting_as`
            // opens and reverts.
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

/// Runs an action with the rights of another role, as a security-restricted operation (as REINDEX
/// does). Triggers, policies and casts of that role's tables get the rights of that role and no
/// more: they cannot switch to another role, and they cannot leave a deferred trigger or a setting
/// behind that runs later with other rights.
pub fn acting_as<R>(role: pg_sys::Oid, act: impl FnOnce() -> R) -> R {
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    let acting =
        (pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION) as i32;
    // SAFETY: reads and sets variables of this process. The code below restores them; if an error
    // ends the transaction, the server does.
    let before = unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        let settings = pg_sys::NewGUCNestLevel();
        pg_sys::SetUserIdAndSecContext(role, context | acting);
        Before { user, context, settings }
    };
    let result = act();
    // SAFETY: reverts the settings made since. After an error the end of the transaction does it.
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
        // SAFETY: restores the values read before, also while an error unwinds.
        unsafe { pg_sys::SetUserIdAndSecContext(self.user, self.context) };
    }
}
