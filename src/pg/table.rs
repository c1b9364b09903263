//! Tables in the catalog.

use pgrx::pg_sys;

unsafe extern "C-unwind" {
    /// The parents of a partition, the nearest first (catalog/partition.h).
    fn get_partition_ancestors(table: pg_sys::Oid) -> *mut pg_sys::List;
}

/// The topmost parent of a partition; for another table the table itself. There need be no such table
/// any more.
pub fn root(table: u32) -> u32 {
    // SAFETY: a look-up in the catalog, which the boundary lets fail; it gives a list of OIDs.
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
