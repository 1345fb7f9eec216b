//! Keys of rows: which unique indexes a table has, and the hash of a row's values in each.
//!
//! Where an index holds values equal exactly if their bytes are, those are hashed: integers of any width as eight bytes,
//! so that a foreign key may be narrower or wider than its parent. PostgreSQL's own hash of a bigint folds its two
//! halves, so ids made as `node << 32 | number` would meet all the time. Other values are hashed by their type's own
//! extended hash function under the index's collation, so that what the index holds equal (1.0 and 1.00, 'a' and 'A' of
//! a case-blind collation) is one key. A foreign key's values are hashed as the parent's key. An enum is hashed by its
//! label, since its number differs from server to server.
//!
//! Two members that hashed a value differently would miss conflicts, so all of this is part of the protocol.

use std::cell::RefCell;
use std::ffi::CStr;

use pgrx::pg_sys::{self, Datum, Oid};
use tables::{IndexId, KeyHash, Row};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::column_codec::function;
use crate::list;

/// What a hash begins with; any fixed number, the same on every server.
const SEED: u64 = 0x5359_4e4f_445f_4b31;

/// What stands for NULL in an index where NULLs are equal.
const NULL_HASH: u64 = 0x6e75_6c6c_6e75_6c6c;

/// How one value of a key is hashed.
struct Hasher {
    kind: HasherKind,
    collation: Oid,
}

enum HasherKind {
    /// By the value's bytes.
    Image(Image),
    Extended(RefCell<pg_sys::FmgrInfo>),
    Label(RefCell<pg_sys::FmgrInfo>),
}

impl Hasher {
    unsafe fn add(&self, hash: u64, value: Datum) -> u64 {
        match &self.kind {
            HasherKind::Image(image) => image.hash(hash, value),
            HasherKind::Extended(function) => {
                let function = function.as_ptr();
                pg_sys::FunctionCall2Coll(function, self.collation, value, Datum::from(hash)).value() as u64
            }
            HasherKind::Label(output) => {
                let label = pg_sys::OutputFunctionCall(output.as_ptr(), value);
                xxh3_64_with_seed(CStr::from_ptr(label).to_bytes(), hash)
            }
        }
    }
}

/// How the bytes of a value are found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Image {
    /// An integer, or what is stored as one, of so many bytes.
    Integer(i16),
    /// So many bytes behind a pointer.
    Fixed(i16),
    /// As many bytes as the value says.
    Variable,
}

impl Image {
    unsafe fn hash(self, hash: u64, value: Datum) -> u64 {
        match self {
            Image::Integer(width) => {
                // What stands in a datum above the value's own width is left open.
                let number = match width {
                    1 => i64::from(value.value() as i8),
                    2 => i64::from(value.value() as i16),
                    4 => i64::from(value.value() as i32),
                    _ => value.value() as i64,
                };
                xxh3_64_with_seed(&number.to_le_bytes(), hash)
            }
            Image::Fixed(length) => {
                let length = usize::try_from(length).expect("a fixed length is positive");
                xxh3_64_with_seed(std::slice::from_raw_parts(value.cast_mut_ptr::<u8>(), length), hash)
            }
            Image::Variable => {
                let plain = pg_sys::pg_detoast_datum_packed(value.cast_mut_ptr());
                xxh3_64_with_seed(pgrx::varlena_to_byte_slice(plain), hash)
            }
        }
    }

    /// How values of a type are hashed by their bytes in an index; none if the index may hold equal what differs there.
    unsafe fn of(family: Oid, compared: Oid, collation: Oid) -> Option<Image> {
        let is_canonical = matches!(
            compared,
            pg_sys::BOOLOID
                | pg_sys::CHAROID
                | pg_sys::INT2OID
                | pg_sys::INT4OID
                | pg_sys::INT8OID
                | pg_sys::OIDOID
                | pg_sys::DATEOID
                | pg_sys::TIMEOID
                | pg_sys::TIMESTAMPOID
                | pg_sys::TIMESTAMPTZOID
                | pg_sys::MONEYOID
                | pg_sys::UUIDOID
                | pg_sys::BYTEAOID
                | pg_sys::TEXTOID
        );
        let says = pg_sys::get_opfamily_proc(family, compared, compared, BTEQUALIMAGE_PROC);
        if !is_canonical
            || says == Oid::INVALID
            || pg_sys::OidFunctionCall1Coll(says, collation, Datum::from(compared)).value() == 0
        {
            return None;
        }
        let (mut length, mut by_value) = (0, false);
        pg_sys::get_typlenbyval(compared, &mut length, &mut by_value);
        Some(match (by_value, length) {
            (true, width) => Image::Integer(width),
            (false, 1..) => Image::Fixed(length),
            (false, _) => Image::Variable,
        })
    }
}

/// The support function of a btree operator family that says whether equal means equal bytes (`access/nbtree.h`).
const BTEQUALIMAGE_PROC: i16 = 4;

/// The support function of a hash operator family that takes a seed (`access/hash.h`).
const HASHEXTENDED_PROC: i16 = 2;

/// The number of a column as PostgreSQL counts them; zero for an expression.
type Attribute = i16;

/// A unique index as a source of keys.
pub struct UniqueKey {
    /// Its number in the log.
    pub id: IndexId,
    /// The index.
    pub index: Oid,
    /// The index's name.
    pub name: String,
    /// The key columns; zero stands for an expression.
    pub attributes: Vec<Attribute>,
    /// Whether expressions or a predicate must be evaluated.
    pub is_computed: bool,
    /// Whether the index refuses a second row at once, rather than at the end of the transaction.
    pub is_immediate: bool,
    nulls_are_equal: bool,
    hashers: Vec<Hasher>,
}

/// A foreign key as a source of keys of its parent.
pub struct ForeignKey {
    /// The parent's number in the log.
    pub parent: tables::TableId,
    /// Which of the parent's keys.
    pub parent_index: IndexId,
    /// The referencing columns, in the order of the parent's index.
    pub attributes: Vec<Attribute>,
    hashers: Vec<(Hasher, Option<RefCell<pg_sys::FmgrInfo>>)>,
}

/// The hash of a whole row: what identifies it in a table without a primary key.
pub fn row_hash(row: &Row) -> KeyHash {
    KeyHash(xxh3_64(row.as_bytes()))
}

/// A row's values by column number.
#[derive(Clone, Copy)]
pub struct SlotValues {
    slot: *mut pg_sys::TupleTableSlot,
}

impl SlotValues {
    /// # Safety
    /// `slot` holds a row; the values are good as long as it does.
    pub unsafe fn of(slot: *mut pg_sys::TupleTableSlot) -> SlotValues {
        let columns = (*(*slot).tts_tupleDescriptor).natts;
        if i32::from((*slot).tts_nvalid) < columns {
            pg_sys::slot_getsomeattrs_int(slot, columns);
        }
        SlotValues { slot }
    }

    /// The slot itself.
    pub fn slot(self) -> *mut pg_sys::TupleTableSlot {
        self.slot
    }

    /// A column's value; none if it is NULL.
    pub fn value(self, attribute: i16) -> Option<Datum> {
        let place = usize::try_from(attribute - 1).expect("a column's number is positive");
        // SAFETY: every column of the slot was made valid above.
        unsafe { (!*(*self.slot).tts_isnull.add(place)).then(|| *(*self.slot).tts_values.add(place)) }
    }
}

impl UniqueKey {
    /// The key of a row; none where the index has no entry for it, or none that could collide (NULLs).
    ///
    /// # Safety
    /// `row` is a row of the key's table.
    pub unsafe fn hash(&self, row: SlotValues) -> Option<KeyHash> {
        if self.is_computed {
            return self.hash_computed(row);
        }
        self.combine(self.attributes.iter().map(|attribute| row.value(*attribute)))
    }

    unsafe fn combine(&self, values: impl Iterator<Item = Option<Datum>>) -> Option<KeyHash> {
        let mut hash = SEED;
        for (hasher, value) in self.hashers.iter().zip(values) {
            hash = match value {
                Some(value) => hasher.add(hash, value),
                None if self.nulls_are_equal => hash.rotate_left(23) ^ NULL_HASH,
                None => return None,
            };
        }
        Some(KeyHash(hash))
    }

    /// As PostgreSQL computes the index's entry when it inserts the row.
    unsafe fn hash_computed(&self, row: SlotValues) -> Option<KeyHash> {
        let index = pg_sys::index_open(self.index, pg_sys::AccessShareLock as i32);
        let info = pg_sys::BuildIndexInfo(index);
        let estate = pg_sys::CreateExecutorState();
        let context = pg_sys::MakePerTupleExprContext(estate);
        (*context).ecxt_scantuple = row.slot();
        let hash = match predicate_holds(info, estate, context) {
            false => None,
            true => {
                let mut values = [Datum::null(); pg_sys::INDEX_MAX_KEYS as usize];
                let mut nulls = [false; pg_sys::INDEX_MAX_KEYS as usize];
                pg_sys::FormIndexDatum(info, row.slot(), estate, values.as_mut_ptr(), nulls.as_mut_ptr());
                self.combine(values.iter().zip(&nulls).map(|(value, null)| (!null).then_some(*value)))
            }
        };
        pg_sys::FreeExecutorState(estate);
        pg_sys::index_close(index, pg_sys::NoLock as i32);
        hash
    }
}

unsafe fn predicate_holds(
    info: *mut pg_sys::IndexInfo,
    estate: *mut pg_sys::EState,
    context: *mut pg_sys::ExprContext,
) -> bool {
    if (*info).ii_Predicate.is_null() {
        return true;
    }
    let state = pg_sys::ExecPrepareQual((*info).ii_Predicate, estate);
    if state.is_null() {
        return true;
    }
    let evaluate = (*state).evalfunc.expect("a prepared expression can be evaluated");
    let mut is_null = false;
    let holds = pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| evaluate(state, context, &mut is_null));
    holds.value() != 0 && !is_null
}

impl ForeignKey {
    /// The parent's key that a row refers to; none if a column is NULL.
    ///
    /// # Safety
    /// `row` is a row of the referencing table.
    pub unsafe fn hash(&self, row: SlotValues) -> Option<KeyHash> {
        let mut hash = SEED;
        for (attribute, (hasher, cast)) in self.attributes.iter().zip(&self.hashers) {
            let mut value = row.value(*attribute)?;
            if let Some(cast) = cast {
                value = pg_sys::FunctionCall3Coll(
                    cast.as_ptr(),
                    Oid::INVALID,
                    value,
                    Datum::from(-1_i32),
                    Datum::from(false),
                );
            }
            hash = hasher.add(hash, value);
        }
        Some(KeyHash(hash))
    }
}

/// Why an index or a foreign key gives no keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No hash function belongs to the equality that the index uses.
    #[error("index \"{index}\" compares values of type {type_name}, which has no hash function that fits")]
    NoHash {
        /// The index.
        index: String,
        /// The type.
        type_name: String,
    },
    /// A foreign key's column cannot be turned into its parent's type.
    #[error("foreign key column of type {type_name} has no hash function or cast that fits its parent's")]
    NoCast {
        /// The column's type.
        type_name: String,
    },
}

fn type_name(type_oid: Oid) -> String {
    // SAFETY: makes a string in the current memory context.
    unsafe { CStr::from_ptr(pg_sys::format_type_be(type_oid)).to_string_lossy().into_owned() }
}

/// The unique indexes of a table, with their numbers: the primary key is [`IndexId::ROW`], the others follow in the
/// order of their names. An index that is being built does not count.
///
/// # Safety
/// `relation` is an open, locked table.
pub unsafe fn unique_keys(relation: pg_sys::Relation) -> Result<Vec<UniqueKey>, KeyError> {
    let mut primary = None;
    let mut others = Vec::new();
    for index in list::oids(pg_sys::RelationGetIndexList(relation)) {
        let index = pg_sys::index_open(index, pg_sys::AccessShareLock as i32);
        let form = (*index).rd_index;
        if (*form).indisunique && (*form).indisvalid && (*form).indislive {
            let key = unique_key(relation, index)?;
            if (*form).indisprimary {
                primary = Some(key);
            } else {
                others.push(key);
            }
        }
        pg_sys::index_close(index, pg_sys::NoLock as i32);
    }
    others.sort_by(|one, other| one.name.cmp(&other.name));
    for (key, number) in others.iter_mut().zip(IndexId::FIRST_UNIQUE.0..) {
        key.id = IndexId(number);
    }
    Ok(primary.into_iter().chain(others).collect())
}

unsafe fn unique_key(relation: pg_sys::Relation, index: pg_sys::Relation) -> Result<UniqueKey, KeyError> {
    let form = (*index).rd_index;
    let name = CStr::from_ptr((*(*index).rd_rel).relname.data.as_ptr()).to_string_lossy().into_owned();
    let count = usize::from((*form).indnkeyatts as u16);
    let info = pg_sys::BuildIndexInfo(index);
    let numbers = (*info).ii_IndexAttrNumbers;
    let attributes: Vec<Attribute> = numbers[..count].to_vec();
    let mut hashers = Vec::with_capacity(count);
    for (place, attribute) in attributes.iter().enumerate() {
        hashers.push(index_hasher(relation, index, place, *attribute, &name)?);
    }
    Ok(UniqueKey {
        id: IndexId::ROW,
        index: (*index).rd_id,
        name,
        is_computed: !(*info).ii_Predicate.is_null() || attributes.contains(&0),
        is_immediate: (*form).indimmediate,
        nulls_are_equal: (*info).ii_NullsNotDistinct,
        attributes,
        hashers,
    })
}

unsafe fn index_hasher(
    relation: pg_sys::Relation,
    index: pg_sys::Relation,
    place: usize,
    attribute: Attribute,
    index_name: &str,
) -> Result<Hasher, KeyError> {
    let family = *(*index).rd_opfamily.add(place);
    let compared = *(*index).rd_opcintype.add(place);
    let collation = *(*index).rd_indcollation.add(place);
    let column_type = match attribute {
        0 => column_type((*index).rd_att, place),
        attribute => column_type((*relation).rd_att, usize::from(attribute as u16) - 1),
    };
    let column_type = pg_sys::getBaseType(column_type);
    hasher(family, compared, column_type, collation)
        .ok_or_else(|| KeyError::NoHash { index: index_name.to_owned(), type_name: type_name(column_type) })
}

unsafe fn column_type(descriptor: pg_sys::TupleDesc, place: usize) -> Oid {
    (*(*descriptor).attrs.as_ptr().add(place)).atttypid
}

/// The hash that fits an index column's equality, for values of `column_type`; none if there is none.
unsafe fn hasher(family: Oid, compared: Oid, column_type: Oid, collation: Oid) -> Option<Hasher> {
    if pg_sys::get_typtype(column_type) as u8 == pg_sys::TYPTYPE_ENUM {
        let (mut output, mut is_varlena) = (Oid::INVALID, false);
        pg_sys::getTypeOutputInfo(column_type, &mut output, &mut is_varlena);
        return Some(Hasher { kind: HasherKind::Label(RefCell::new(function(output))), collation });
    }
    if let Some(image) = Image::of(family, compared, collation) {
        return Some(Hasher { kind: HasherKind::Image(image), collation });
    }
    if hashes_numbers_of_this_server(column_type) {
        return None;
    }
    let equality = pg_sys::get_opfamily_member(family, compared, compared, pg_sys::BTEqualStrategyNumber as i16);
    // A polymorphic operator class (arrays, ranges, records) is known by the actual type.
    let hashed = if pg_sys::get_typtype(compared) as u8 == pg_sys::TYPTYPE_PSEUDO { column_type } else { compared };
    let flags = pg_sys::TYPECACHE_HASH_OPFAMILY | pg_sys::TYPECACHE_HASH_EXTENDED_PROC;
    let entry = pg_sys::lookup_type_cache(hashed, flags as i32);
    let fits = (*entry).hash_opf != Oid::INVALID
        && (*entry).hash_extended_proc != Oid::INVALID
        && pg_sys::get_op_opfamily_strategy(equality, (*entry).hash_opf) == pg_sys::HTEqualStrategyNumber as i32;
    fits.then(|| Hasher { kind: HasherKind::Extended(RefCell::new(function((*entry).hash_extended_proc))), collation })
}

/// Whether a type's hash depends on OIDs of this server: containers of enums or of composites.
unsafe fn hashes_numbers_of_this_server(column_type: Oid) -> bool {
    let element = pg_sys::get_element_type(column_type);
    if element != Oid::INVALID {
        let element = pg_sys::getBaseType(element);
        return pg_sys::get_typtype(element) as u8 == pg_sys::TYPTYPE_ENUM
            || pg_sys::get_typtype(element) as u8 == pg_sys::TYPTYPE_COMPOSITE;
    }
    matches!(pg_sys::get_typtype(column_type) as u8, pg_sys::TYPTYPE_COMPOSITE | pg_sys::TYPTYPE_PSEUDO)
        || (matches!(pg_sys::get_typtype(column_type) as u8, pg_sys::TYPTYPE_RANGE | pg_sys::TYPTYPE_MULTIRANGE)
            && column_type.to_u32() >= crate::column_codec::FIRST_USER_OID)
}

/// A foreign key, hashed as the parent's key `parent_key`.
///
/// # Safety
/// Both relations are open and locked; `columns` pairs the referencing and the referenced columns.
pub unsafe fn foreign_key(
    child: pg_sys::Relation,
    parent: pg_sys::Relation,
    parent_table: tables::TableId,
    parent_key: &UniqueKey,
    columns: &[(Attribute, Attribute)],
) -> Result<ForeignKey, KeyError> {
    let index = pg_sys::index_open(parent_key.index, pg_sys::AccessShareLock as i32);
    let mut attributes = Vec::with_capacity(columns.len());
    let mut hashers = Vec::with_capacity(columns.len());
    for (place, parent_attribute) in parent_key.attributes.iter().enumerate() {
        let (child_attribute, _) = columns
            .iter()
            .find(|(_, referenced)| referenced == parent_attribute)
            .expect("a foreign key refers to all columns of its parent's index");
        let from = column_base_type(child, *child_attribute);
        let to = column_base_type(parent, *parent_attribute);
        hashers.push(
            foreign_hasher(index, place, from, to).ok_or_else(|| KeyError::NoCast { type_name: type_name(from) })?,
        );
        attributes.push(*child_attribute);
    }
    pg_sys::index_close(index, pg_sys::NoLock as i32);
    Ok(ForeignKey { parent: parent_table, parent_index: parent_key.id, attributes, hashers })
}

unsafe fn column_base_type(relation: pg_sys::Relation, attribute: Attribute) -> Oid {
    pg_sys::getBaseType(column_type((*relation).rd_att, usize::from(attribute as u16) - 1))
}

unsafe fn foreign_hasher(
    index: pg_sys::Relation,
    place: usize,
    from: Oid,
    to: Oid,
) -> Option<(Hasher, Option<RefCell<pg_sys::FmgrInfo>>)> {
    let family = *(*index).rd_opfamily.add(place);
    let compared = *(*index).rd_opcintype.add(place);
    let collation = *(*index).rd_indcollation.add(place);
    let parent_hasher = hasher(family, compared, to, collation)?;
    if from == to || pg_sys::IsBinaryCoercible(from, to) {
        return Some((parent_hasher, None));
    }
    match &parent_hasher.kind {
        HasherKind::Image(Image::Integer(_)) => {
            // An integer of another width: no cast, which could overflow.
            if let (Some(width), Some(_)) = (integer_width(from), integer_width(to)) {
                let kind = HasherKind::Image(Image::Integer(width));
                return Some((Hasher { kind, collation }, None));
            }
        }
        HasherKind::Extended(_) => {
            // Types of one hash family (real and double precision) hash equal values alike.
            let hash_family = (*pg_sys::lookup_type_cache(to, pg_sys::TYPECACHE_HASH_OPFAMILY as i32)).hash_opf;
            let own = pg_sys::get_opfamily_proc(hash_family, from, from, HASHEXTENDED_PROC);
            if own != Oid::INVALID {
                return Some((Hasher { kind: HasherKind::Extended(RefCell::new(function(own))), collation }, None));
            }
        }
        HasherKind::Image(_) | HasherKind::Label(_) => {}
    }
    let mut cast = Oid::INVALID;
    match pg_sys::find_coercion_pathway(to, from, pg_sys::CoercionContext::COERCION_IMPLICIT, &mut cast) {
        pg_sys::CoercionPathType::COERCION_PATH_RELABELTYPE => Some((parent_hasher, None)),
        pg_sys::CoercionPathType::COERCION_PATH_FUNC => Some((parent_hasher, Some(RefCell::new(function(cast))))),
        _ => None,
    }
}

/// The bytes of a smallint, an integer or a bigint.
fn integer_width(type_oid: Oid) -> Option<i16> {
    match type_oid {
        pg_sys::INT2OID => Some(2),
        pg_sys::INT4OID => Some(4),
        pg_sys::INT8OID => Some(8),
        _ => None,
    }
}
