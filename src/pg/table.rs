//! Tables in the catalog.

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
