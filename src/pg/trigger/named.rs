//! The columns of a trigger's row by names that only the trigger itself knows: its arguments.
//!
//! Values are compared as bytes. No code of a type's owner runs.

use std::ffi::CStr;

use pgrx::pg_sys;

use super::super::text::varlena_bytes;
use super::{Fired, TriggerCall};
use crate::pg::{role, table};

unsafe extern "C-unwind" {
    /// Whether two values of one type have the same bytes (utils/datum.h), once they are unpacked.
    fn datum_image_eq(
        left: pg_sys::Datum,
        right: pg_sys::Datum,
        by_value: bool,
        length: std::ffi::c_int,
    ) -> bool;
}

/// A column of the trigger's table.
#[derive(Clone, Copy)]
pub struct Named<'a> {
    call: &'a TriggerCall<'a>,
    /// Counted from 1.
    number: i16,
    type_oid: pg_sys::Oid,
    is_by_value: bool,
    length: i16,
}

impl TriggerCall<'_> {
    /// The arguments of the trigger, as CREATE TRIGGER has them.
    pub fn arguments(&self) -> impl Iterator<Item = &[u8]> {
        // SAFETY: the server passes the trigger, which has as many arguments as it counts. Each ends
        // in NUL.
        (0..unsafe { (*self.data.tg_trigger).tgnargs } as usize).map(|place| unsafe {
            CStr::from_ptr(*(*self.data.tg_trigger).tgargs.add(place)).to_bytes()
        })
    }

    /// A column by its name, which need not be valid UTF-8.
    pub fn named(&self, name: &[u8]) -> Option<Named<'_>> {
        // SAFETY: the server keeps the relation open during the call.
        let description =
            unsafe { pgrx::PgTupleDesc::from_pg_unchecked((*self.data.tg_relation).rd_att) };
        let (number, attribute) = description.iter().enumerate().find(|(_, attribute)| {
            // SAFETY: a name of the catalog ends in NUL within its array.
            let own = unsafe { CStr::from_ptr(attribute.attname.data.as_ptr()) }.to_bytes();
            !attribute.is_dropped() && own == name
        })?;
        Some(Named {
            call: self,
            number: number as i16 + 1,
            type_oid: attribute.atttypid,
            is_by_value: attribute.attbyval,
            length: attribute.attlen,
        })
    }

    /// Whether row security does not hold the current user: they have the rights of the owner of the
    /// table, or of the table that it is a partition of, or BYPASSRLS. Whether row security is enabled
    /// does not matter.
    pub fn is_by_owner(&self) -> bool {
        let table = self.table();
        let has_rights = |table: u32| table::owner(table.into()).is_some_and(role::has_rights_of);
        role::bypasses_row_security() || has_rights(table) || has_rights(table::root(table))
    }
}

impl Named<'_> {
    /// The value in a slot of the call.
    fn value(&self, slot: *mut pg_sys::TupleTableSlot) -> Option<pg_sys::Datum> {
        // SAFETY: for a row trigger the server fills the slot with a row of this table, which has this
        // column.
        unsafe {
            if (*slot).tts_nvalid < self.number {
                pg_sys::slot_getsomeattrs(slot, self.number.into());
            }
            let index = self.number as usize - 1;
            let is_null = *(*slot).tts_isnull.add(index);
            (!is_null).then(|| *(*slot).tts_values.add(index))
        }
    }

    fn new_value(&self) -> Option<pg_sys::Datum> {
        self.value(match self.call.fired() {
            Some(Fired::Update) => self.call.data.tg_newslot,
            _ => self.call.data.tg_trigslot,
        })
    }

    fn is_same(&self, left: pg_sys::Datum, right: pg_sys::Datum) -> bool {
        // SAFETY: two values of this column's type.
        unsafe { datum_image_eq(left, right, self.is_by_value, self.length.into()) }
    }

    /// Whether an UPDATE has given it another value.
    pub fn is_changed(&self) -> bool {
        match (self.value(self.call.data.tg_trigslot), self.new_value()) {
            (Some(old), Some(new)) => !self.is_same(old, new),
            (None, None) => false,
            _ => true,
        }
    }

    pub fn is_null(&self) -> bool {
        self.new_value().is_none()
    }

    /// Whether the new value is the column's default. False for a default that is not a constant.
    pub fn is_default(&self) -> bool {
        let Some(value) = self.new_value() else { return false };
        // SAFETY: the server keeps the relation open; the expression is planned in the memory of this
        // call. A constant has a value of the column's type.
        unsafe {
            let default =
                pg_sys::build_column_default(self.call.data.tg_relation, self.number.into());
            if default.is_null() {
                return false;
            }
            let default = pg_sys::eval_const_expressions(std::ptr::null_mut(), default);
            if (*default).type_ != pg_sys::NodeTag::T_Const {
                return false;
            }
            let constant = &*default.cast::<pg_sys::Const>();
            !constant.constisnull
                && constant.consttype == self.type_oid
                && self.is_same(value, constant.constvalue)
        }
    }

    /// Whether the new value is this id, given as text and as a UUID.
    pub fn is_id(&self, text: Option<&str>, uuid: Option<[u8; 16]>) -> bool {
        let Some(value) = self.new_value() else { return false };
        match crate::pg::base_type(self.type_oid) {
            pg_sys::UUIDOID => uuid.is_some_and(|uuid| {
                // SAFETY: a uuid is 16 bytes at the datum, without alignment.
                unsafe { *value.cast_mut_ptr::<[u8; 16]>() == uuid }
            }),
            pg_sys::TEXTOID | pg_sys::VARCHAROID => text.is_some_and(|text| {
                // SAFETY: a text or varchar of the row.
                unsafe { varlena_bytes(value) == text.as_bytes() }
            }),
            _ => false,
        }
    }
}
