//! A text result of the domain that PostgREST serves as `text/event-stream`.

use pgrx::callconv::{BoxRet, FcInfo};
use pgrx::datum::Datum;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};

use super::TextResult;

pub struct EventStream(TextResult);

impl EventStream {
    pub fn new(text: &str) -> EventStream {
        EventStream(TextResult::new(text))
    }
}

// SAFETY: a domain over text without constraints is a text.
unsafe impl BoxRet for EventStream {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        // SAFETY: as for the text itself.
        unsafe { self.0.box_into(fcinfo) }
    }
}

// SAFETY: names the domain that sql/event_stream.sql creates.
unsafe impl SqlTranslatable for EventStream {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(EventStream);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> =
        Err(ArgumentError::NotValidAsArgument("text/event-stream"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> =
        Ok(ReturnsRef::One(SqlMappingRef::literal("civic.\"text/event-stream\"")));
}
