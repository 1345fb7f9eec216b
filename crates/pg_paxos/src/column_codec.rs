//! How one column's values travel: out of a row at the origin, into a row where they are applied.
//!
//! A value keeps its meaning, not its place: it is never a TOAST pointer, never an OID of this server, and does not
//! depend on a setting of the session. Hence per type one of
//! - its bytes, for fixed-width numbers (most significant first) and for types that are stored as their own text;
//! - its binary send format, where that holds no OID of a type made by users;
//! - its text format under pinned settings, for composites, arrays of user-made types and types without a binary one.
//!
//! A domain travels as its base type, so that no constraint of a domain (a user's code) runs when it is applied.

use std::ffi::{CStr, CString};

use bytes::Bytes;
use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::prelude::*;
use tables::{RowBuilder, Value};

/// Types whose value is a number of this many bytes, kept in the datum itself.
const FIXED: &[(Oid, u8)] = &[
    (pg_sys::BOOLOID, 1),
    (pg_sys::CHAROID, 1),
    (pg_sys::INT2OID, 2),
    (pg_sys::INT4OID, 4),
    (pg_sys::OIDOID, 4),
    (pg_sys::FLOAT4OID, 4),
    (pg_sys::DATEOID, 4),
    (pg_sys::INT8OID, 8),
    (pg_sys::FLOAT8OID, 8),
    (pg_sys::TIMEOID, 8),
    (pg_sys::TIMESTAMPOID, 8),
    (pg_sys::TIMESTAMPTZOID, 8),
    (pg_sys::MONEYOID, 8),
];

/// Types stored as their own bytes behind a length. Their send functions would convert to the client's encoding.
const OWN_BYTES: &[Oid] =
    &[pg_sys::TEXTOID, pg_sys::VARCHAROID, pg_sys::BPCHAROID, pg_sys::BYTEAOID, pg_sys::JSONOID, pg_sys::XMLOID];

/// The first OID that a type made by users can have; lower ones are the same on every server of a major version.
pub const FIRST_USER_OID: u32 = pg_sys::FirstNormalObjectId;

/// How a type's values travel.
enum Form {
    Fixed(u8),
    OwnBytes,
    Binary { send: pg_sys::FmgrInfo, receive: pg_sys::FmgrInfo },
    Text { output: pg_sys::FmgrInfo, input: pg_sys::FmgrInfo },
}

/// One column's way out of and into rows.
pub struct ColumnCodec {
    form: Form,
    element: Oid,
    modifier: i32,
}

/// Settings on which the text format of some types depends, as both ends pin them.
const TEXT_SETTINGS: &[(&CStr, &CStr)] = &[
    (c"search_path", c"pg_catalog, pg_temp"),
    (c"datestyle", c"ISO, YMD"),
    (c"timezone", c"UTC"),
    (c"lc_monetary", c"C"),
    (c"intervalstyle", c"postgres"),
    (c"extra_float_digits", c"3"),
    (c"bytea_output", c"hex"),
    (c"xmlbinary", c"base64"),
];

impl ColumnCodec {
    /// The way of a type with a modifier.
    pub fn of(type_oid: Oid, modifier: i32) -> ColumnCodec {
        let mut modifier = modifier;
        // SAFETY: syscache look-ups of a type that a column of an open table has.
        let base = unsafe { pg_sys::getBaseTypeAndTypmod(type_oid, &mut modifier) };
        let mut element = Oid::INVALID;
        let form = if let Some((_, width)) = FIXED.iter().find(|(fixed, _)| *fixed == base) {
            Form::Fixed(*width)
        } else if OWN_BYTES.contains(&base) {
            Form::OwnBytes
        } else if travels_in_binary(base) {
            let (send, receive) = binary_functions(base, &mut element);
            Form::Binary { send, receive }
        } else {
            let (output, input) = text_functions(base, &mut element);
            Form::Text { output, input }
        };
        ColumnCodec { form, element, modifier }
    }

    /// Whether values travel as text, so that settings must be pinned around it.
    pub fn is_text(&self) -> bool {
        matches!(self.form, Form::Text { .. })
    }

    /// Adds a value that is not NULL to a row.
    ///
    /// # Safety
    /// `datum` is a valid value of the column's type.
    pub unsafe fn put(&mut self, datum: Datum, row: &mut RowBuilder) {
        match &mut self.form {
            Form::Fixed(width) => {
                let bytes = (datum.value() as u64).to_be_bytes();
                row.binary(&bytes[8 - usize::from(*width)..]);
            }
            Form::OwnBytes => {
                let plain = pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr());
                row.binary(pgrx::varlena_to_byte_slice(plain));
            }
            Form::Binary { send, .. } => {
                let sent = pg_sys::SendFunctionCall(send, datum);
                row.binary(pgrx::varlena_to_byte_slice(sent.cast()));
            }
            Form::Text { output, .. } => {
                let text = pg_sys::OutputFunctionCall(output, datum);
                row.text(CStr::from_ptr(text).to_bytes());
            }
        }
    }

    /// Makes a datum of a value that came in a row, in the current memory context; none for NULL. Raises an error on
    /// a value in another form than this column's.
    pub fn datum(&mut self, value: &Value) -> Option<Datum> {
        match (&mut self.form, value) {
            (_, Value::Null) => None,
            (Form::Fixed(width), Value::Binary(bytes)) if bytes.len() == usize::from(*width) => Some(fixed(bytes)),
            (Form::OwnBytes, Value::Binary(bytes)) => {
                // SAFETY: copies `bytes` into a new varlena.
                Some(Datum::from(unsafe { pg_sys::cstring_to_text_with_len(bytes.as_ptr().cast(), length(bytes)) }))
            }
            (Form::Binary { receive, .. }, Value::Binary(bytes)) => {
                // SAFETY: the receive function of this column's type, on a buffer that it reads to its end.
                Some(unsafe { received(receive, bytes, self.element, self.modifier) })
            }
            (Form::Text { input, .. }, Value::Text(bytes)) => {
                let text = CString::new(bytes.to_vec()).unwrap_or_else(|_| malformed());
                // SAFETY: the input function of this column's type, on a terminated string.
                Some(unsafe { pg_sys::InputFunctionCall(input, text.as_ptr().cast_mut(), self.element, self.modifier) })
            }
            _ => malformed(),
        }
    }
}

fn malformed() -> ! {
    crate::refusal::fail(
        PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
        "a replicated value does not have the form of its column",
        "Compare the table's definition on this server with that on the others.",
    )
}

fn length(bytes: &Bytes) -> i32 {
    i32::try_from(bytes.len()).expect("a write set is shorter than 2 GiB")
}

/// The datum of a number, most significant byte first, sign-extended as PostgreSQL keeps it.
fn fixed(bytes: &[u8]) -> Datum {
    match *bytes {
        [byte] => Datum::from(byte as usize),
        [a, b] => Datum::from(i16::from_be_bytes([a, b])),
        [a, b, c, d] => Datum::from(i32::from_be_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => Datum::from(i64::from_be_bytes([a, b, c, d, e, f, g, h])),
        _ => malformed(),
    }
}

unsafe fn received(function: &mut pg_sys::FmgrInfo, bytes: &Bytes, element: Oid, modifier: i32) -> Datum {
    let mut buffer = pg_sys::StringInfoData::default();
    pg_sys::initStringInfo(&mut buffer);
    pg_sys::appendBinaryStringInfo(&mut buffer, bytes.as_ptr().cast(), length(bytes));
    let datum = pg_sys::ReceiveFunctionCall(function, &mut buffer, element, modifier);
    if buffer.cursor != buffer.len {
        malformed();
    }
    datum
}

/// Whether the binary format of a base type means the same on another server.
fn travels_in_binary(base: Oid) -> bool {
    // SAFETY: syscache look-ups.
    unsafe {
        let element = pg_sys::get_element_type(base);
        if element != Oid::INVALID {
            // An array's binary format names its element type by OID.
            return element.to_u32() < FIRST_USER_OID && has_binary_format(element) && !is_record(element);
        }
        match pg_sys::get_typtype(base) as u8 {
            pg_sys::TYPTYPE_BASE | pg_sys::TYPTYPE_ENUM => has_binary_format(base) && !is_record(base),
            pg_sys::TYPTYPE_RANGE | pg_sys::TYPTYPE_MULTIRANGE => base.to_u32() < FIRST_USER_OID,
            _ => false,
        }
    }
}

unsafe fn is_record(type_oid: Oid) -> bool {
    type_oid == pg_sys::RECORDOID || pg_sys::get_typtype(type_oid) as u8 == pg_sys::TYPTYPE_COMPOSITE
}

fn has_binary_format(type_oid: Oid) -> bool {
    // SAFETY: a syscache look-up; the struct is read before the tuple is released.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::TYPEOID as i32, Datum::from(type_oid));
        if tuple.is_null() {
            return false;
        }
        let form = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_type>();
        let has = (*form).typsend != Oid::INVALID && (*form).typreceive != Oid::INVALID;
        pg_sys::ReleaseSysCache(tuple);
        has
    }
}

fn binary_functions(base: Oid, element: &mut Oid) -> (pg_sys::FmgrInfo, pg_sys::FmgrInfo) {
    let (mut send, mut receive, mut is_varlena) = (Oid::INVALID, Oid::INVALID, false);
    // SAFETY: look-ups of a type that has both functions.
    unsafe {
        pg_sys::getTypeBinaryOutputInfo(base, &mut send, &mut is_varlena);
        pg_sys::getTypeBinaryInputInfo(base, &mut receive, element);
    }
    (function(send), function(receive))
}

fn text_functions(base: Oid, element: &mut Oid) -> (pg_sys::FmgrInfo, pg_sys::FmgrInfo) {
    let (mut output, mut input, mut is_varlena) = (Oid::INVALID, Oid::INVALID, false);
    // SAFETY: look-ups; every type has both functions.
    unsafe {
        pg_sys::getTypeOutputInfo(base, &mut output, &mut is_varlena);
        pg_sys::getTypeInputInfo(base, &mut input, element);
    }
    (function(output), function(input))
}

/// A function ready to be called for the rest of the session.
pub fn function(oid: Oid) -> pg_sys::FmgrInfo {
    let mut info = pg_sys::FmgrInfo::default();
    // SAFETY: fills `info`; what it keeps for itself lives as long as the session.
    unsafe { pg_sys::fmgr_info_cxt(oid, &mut info, pg_sys::TopMemoryContext) };
    info
}

/// Runs `within` with the settings pinned on which the text format of types depends.
pub fn with_text_settings<T>(within: impl FnOnce() -> T) -> T {
    // SAFETY: a GUC nest level; an error inside rolls it back with its transaction.
    let level = unsafe { pg_sys::NewGUCNestLevel() };
    for (name, value) in TEXT_SETTINGS {
        // SAFETY: constant strings; the settings exist and the values are valid.
        unsafe {
            pg_sys::set_config_option(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_USERSET,
                pg_sys::GucSource::PGC_S_SESSION,
                pg_sys::GucAction::GUC_ACTION_SAVE,
                true,
                0,
                false,
            );
        }
    }
    let result = within();
    // SAFETY: the level opened above.
    unsafe { pg_sys::AtEOXact_GUC(true, level) };
    result
}

/// Runs `within` with the client's encoding set to the database's: send functions convert to the client's.
pub fn with_database_encoding<T>(within: impl FnOnce() -> T) -> T {
    // SAFETY: plain accessors of this backend's state.
    let (client, database) = unsafe { (pg_sys::pg_get_client_encoding(), pg_sys::GetDatabaseEncoding()) };
    if client == database {
        return within();
    }
    struct Restore(i32);
    impl Drop for Restore {
        fn drop(&mut self) {
            // SAFETY: the conversion was prepared when the client chose this encoding; it is looked up in a cache.
            unsafe { pg_sys::SetClientEncoding(self.0) };
        }
    }
    // SAFETY: to the database's own encoding no conversion is needed, so this cannot fail.
    unsafe { pg_sys::SetClientEncoding(database) };
    let _restore = Restore(client);
    within()
}
