//! Tables in the catalog.

use std::ffi::CStr;

use pgrx::pg_sys;

unsafe extern "C-unwind" {
    /// The parents of a partition, the nearest first (catalog/partition.h).
    fn get_partition_ancestors(table: pg_sys::Oid) -> *mut pg_sys::List;
    /// A table with its children and partitions, each of which it locks (catalog/pg_inherits.h).
    fn find_all_inheritors(
        table: pg_sys::Oid,
        lock: pg_sys::LOCKMODE,
        parents: *mut *mut pg_sys::List,
    ) -> *mut pg_sys::List;
}

/// A table, view or index by its name; neither opened nor locked.
pub fn find(schema: &CStr, name: &CStr) -> Option<pg_sys::Oid> {
    // SAFETY: catalog look-ups by names that end in NUL; what is missing is InvalidOid.
    let table = unsafe {
        match pg_sys::get_namespace_oid(schema.as_ptr(), true) {
            pg_sys::InvalidOid => pg_sys::InvalidOid,
            schema => pg_sys::get_relname_relid(name.as_ptr(), schema),
        }
    };
    (table != pg_sys::InvalidOid).then_some(table)
}

/// The owner of a table that this extension has made. `None` where there is none, or it is another's.
pub fn owner_of_own(schema: &CStr, name: &CStr) -> Option<pg_sys::Oid> {
    let table = find(schema, name)?;
    // SAFETY: catalog look-ups.
    unsafe {
        let extension = pg_sys::get_extension_oid(c"pg_civic".as_ptr(), true);
        let is_own = extension != pg_sys::InvalidOid
            && pg_sys::getExtensionOfObject(pg_sys::RelationRelationId, table) == extension
            && pg_sys::get_rel_relkind(table) as u8 == pg_sys::RELKIND_RELATION;
        if !is_own {
            return None;
        }
    }
    owner(table)
}

/// The owner of a table, view or index that exists.
pub fn owner(table: pg_sys::Oid) -> Option<pg_sys::Oid> {
    // SAFETY: a catalog look-up; the row is released and only the copy is used.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::RELOID as i32;
        let tuple = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(table));
        (!tuple.is_null()).then(|| {
            let owner = (*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_class>()).relowner;
            pg_sys::ReleaseSysCache(tuple);
            owner
        })
    }
}

/// The topmost parent of a partition; for another table the table itself. The table may no longer
/// exist.
pub fn root(table: u32) -> u32 {
    // SAFETY: a catalog lookup that returns a list of OIDs; the boundary handles its errors.
    unsafe {
        let ancestors =
            pg_sys::ffi::pg_guard_ffi_boundary(|| get_partition_ancestors(table.into()));
        match ancestors.as_ref() {
            Some(list) if list.length > 0 => {
                (*list.elements.add(list.length as usize - 1)).oid_value.to_u32()
            }
            _ => table,
        }
    }
}

/// Locks a table with its children and partitions as a writer does, until the end of the
/// transaction. No other session can create a trigger on them meanwhile. Raises no error if the
/// table no longer exists.
pub fn lock_for_writing(table: pg_sys::Oid) {
    let lock = pg_sys::RowExclusiveLock as pg_sys::LOCKMODE;
    // SAFETY: the end of the transaction releases the locks; the list of OIDs is not used; errors
    // unwind.
    unsafe {
        pg_sys::LockRelationOid(table, lock);
        pg_sys::ffi::pg_guard_ffi_boundary(|| {
            find_all_inheritors(table, lock, std::ptr::null_mut())
        });
    }
}
