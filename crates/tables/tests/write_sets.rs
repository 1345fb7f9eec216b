//! Write sets: their encoding, and the net effect of a transaction.

use std::collections::BTreeMap;

use bytes::Bytes;
use consensus::Slot;
use proptest::prelude::*;
use tables::{
    Change, ColumnDefinition, DecodeError, GrantDefinition, IndexId, Key, KeyHash, NetEffect, NetEffectError,
    Operation, Row, RowBuilder, RowVersion, Strength, TableDefinition, TableId, Value, WriteSet,
};

const TABLE: TableId = TableId(1);

fn row(values: &[Value]) -> Row {
    let mut builder = RowBuilder::default();
    values.iter().for_each(|value| builder.push(value));
    builder.finish()
}

fn number(number: u8) -> Value {
    Value::Binary(Bytes::copy_from_slice(&[number]))
}

fn definition() -> TableDefinition {
    TableDefinition {
        schema: "public".into(),
        name: "t".into(),
        owner: "postgres".into(),
        options: vec!["fillfactor=70".into()],
        columns: vec![ColumnDefinition {
            name: "k".into(),
            type_name: "integer".into(),
            collation: None,
            not_null: true,
            default: None,
            generated: false,
        }],
        constraints: Vec::new(),
        indexes: Vec::new(),
        foreign_keys: Vec::new(),
        grants: vec![GrantDefinition { role: Some("clerk".into()), privileges: "SELECT".into(), grantable: true }],
    }
}

fn every_operation() -> Vec<Operation> {
    vec![
        Operation::ReplicateTable { table: TABLE, definition: Box::new(definition()) },
        Operation::Insert { table: TABLE, new: row(&[number(1), Value::Null]) },
        Operation::Update {
            table: TABLE,
            old: row(&[number(1), Value::Unchanged]),
            new: row(&[Value::Unchanged, Value::Text(Bytes::from_static(b"text"))]),
        },
        Operation::Delete { table: TABLE, old: row(&[number(1), Value::Unchanged]) },
        Operation::UnreplicateTable { table: TABLE },
        Operation::DecideRound { round: -3, proposer: "p".into(), value: Bytes::from_static(b"v") },
        Operation::AppendRound { proposer: "p".into(), value: Bytes::new() },
        Operation::StageRows { lot: 7, part: 3, rows: Bytes::from_static(b"rows") },
        Operation::TakeStaged { lot: u128::MAX, parts: 4 },
    ]
}

fn write_set() -> WriteSet {
    let key =
        Key { table: TABLE, index: IndexId::ROW, hash: KeyHash(3), strength: Strength::Update, position: Slot(9) };
    WriteSet::new([key, Key::of_table(TABLE, Strength::Reference, Slot(9))], every_operation())
}

#[test]
fn a_write_set_survives_its_encoding() {
    let bytes = write_set().encode();
    assert_eq!(WriteSet::decode(bytes.clone()), Ok(write_set()));
    assert_eq!(WriteSet::decode_keys(&bytes), Ok(write_set().keys));
}

#[test]
fn the_format_is_what_other_nodes_and_older_logs_expect() {
    // Changing these bytes breaks every log on disk: raise the version instead.
    let key =
        Key { table: TABLE, index: IndexId::ROW, hash: KeyHash(3), strength: Strength::Update, position: Slot(9) };
    let operations = vec![Operation::Delete { table: TABLE, old: row(&[number(7), Value::Unchanged]) }];
    let bytes = WriteSet::new([key], operations).encode();
    let expected = [
        1, 1, 0, 0, 0, // version, one key
        1, 0, 0, 0, 0, 0, 1, 3, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, // the key
        1, 0, 0, 0, 3, 1, 0, 0, 0, // one operation: a delete from table 1
        9, 0, 0, 0, 2, 0, 2, 1, 0, 0, 0, 7, 0, // its old row: two columns, binary [7], unchanged
    ];
    assert_eq!(bytes.as_ref(), expected);
}

#[test]
fn a_key_touched_twice_keeps_its_first_position_and_greatest_strength() {
    let early =
        Key { table: TABLE, index: IndexId::ROW, hash: KeyHash(3), strength: Strength::Update, position: Slot(4) };
    let late = Key { strength: Strength::Exclusive, position: Slot(9), ..early };
    let keys = WriteSet::new([late, early, late], Vec::new()).keys;
    assert_eq!(keys, [Key { strength: Strength::Exclusive, position: Slot(4), ..early }]);
}

#[test]
fn bytes_cut_anywhere_are_refused() {
    let bytes = write_set().encode();
    for length in 0..bytes.len() {
        assert!(WriteSet::decode(bytes.slice(..length)).is_err(), "{length} bytes of {}", bytes.len());
    }
    let mut longer = bytes.to_vec();
    longer.push(0);
    assert_eq!(WriteSet::decode(Bytes::from(longer)), Err(DecodeError::Trailing(1)));
    assert_eq!(WriteSet::decode(Bytes::from_static(&[2])), Err(DecodeError::Version(2)));
}

proptest! {
    #[test]
    fn hostile_bytes_are_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut versioned = vec![1];
        versioned.extend(&bytes);
        for bytes in [bytes, versioned] {
            let bytes = Bytes::from(bytes);
            let _ = WriteSet::decode_keys(&bytes);
            let _ = WriteSet::decode(bytes);
        }
    }

    #[test]
    fn damaged_write_sets_are_refused_or_have_well_formed_rows(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = write_set().encode().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(write_set) = WriteSet::decode(Bytes::from(bytes)) {
            for operation in write_set.operations {
                if let Operation::Insert { new, .. } | Operation::Update { new, .. } = operation {
                    prop_assert_eq!(new.values().count(), new.column_count());
                }
            }
        }
    }
}

/// A table with rows of two columns, the first being the key, and changes to it as PostgreSQL would report them.
#[derive(Default)]
struct Transaction {
    rows: BTreeMap<u8, (RowVersion, u8)>,
    versions: u64,
    changes: Vec<Change>,
}

impl Transaction {
    fn on(rows: impl IntoIterator<Item = (u8, u8)>) -> Transaction {
        let mut transaction = Transaction::default();
        for (key, value) in rows {
            let version = transaction.version();
            transaction.rows.insert(key, (version, value));
        }
        transaction
    }

    fn version(&mut self) -> RowVersion {
        self.versions += 1;
        RowVersion(self.versions)
    }

    fn insert(&mut self, key: u8, value: u8) {
        if self.rows.contains_key(&key) {
            return;
        }
        let version = self.version();
        self.rows.insert(key, (version, value));
        let new = Some((version, row(&[number(key), number(value)])));
        self.changes.push(Change { table: TABLE, old: None, new });
    }

    fn delete(&mut self, key: u8) {
        if let Some((version, _)) = self.rows.remove(&key) {
            let old = Some((version, row(&[number(key), Value::Unchanged])));
            self.changes.push(Change { table: TABLE, old, new: None });
        }
    }

    fn update(&mut self, key: u8, to: u8, value: u8) {
        if to != key && self.rows.contains_key(&to) {
            return;
        }
        let Some((old_version, old_value)) = self.rows.remove(&key) else { return };
        let version = self.version();
        self.rows.insert(to, (version, value));
        let sent = |same: bool, value: u8| if same { Value::Unchanged } else { number(value) };
        let old = Some((old_version, row(&[number(key), Value::Unchanged])));
        let new = Some((version, row(&[sent(key == to, to), sent(old_value == value, value)])));
        self.changes.push(Change { table: TABLE, old, new });
    }
}

/// What another node does with the operations.
fn apply(rows: &mut BTreeMap<u8, u8>, operations: &[Operation]) {
    let key_of = |row: &Row| match row.values().next() {
        Some(Value::Binary(bytes)) => bytes[0],
        value => panic!("a key is sent in binary: {value:?}"),
    };
    let mut taken = Vec::new();
    for operation in operations {
        match operation {
            Operation::Delete { old, .. } => assert!(rows.remove(&key_of(old)).is_some(), "the row is there"),
            Operation::Update { old, new, .. } => {
                let value = rows.remove(&key_of(old)).expect("the row is there");
                taken.push(new.over(&row(&[number(key_of(old)), number(value)])));
            }
            Operation::Insert { new, .. } => taken.push(new.clone()),
            operation => panic!("{operation:?} is no change of a row"),
        }
    }
    for new in taken {
        let values: Vec<Value> = new.values().collect();
        let [Value::Binary(key), Value::Binary(value)] = values.as_slice() else { panic!("{values:?}") };
        assert_eq!(rows.insert(key[0], value[0]), None, "the key is free");
    }
}

proptest! {
    #[test]
    fn the_net_effect_is_the_effect_in_whatever_order_changes_are_seen(
        start in prop::collection::btree_map(0..6_u8, 0..3_u8, 0..5),
        steps in prop::collection::vec((0..3_u8, 0..6_u8, 0..6_u8, 0..3_u8), 0..25),
        shuffle in any::<u64>(),
    ) {
        let mut transaction = Transaction::on(start.clone());
        for (kind, key, to, value) in steps {
            match kind {
                0 => transaction.insert(key, value),
                1 => transaction.delete(key),
                _ => transaction.update(key, to, value),
            }
        }
        let mut changes = transaction.changes;
        // A fixed shuffle: sort by a hash of the place.
        let mut places: Vec<u64> = (0..changes.len() as u64).collect();
        places.sort_by_key(|place| (place + 1).wrapping_mul(shuffle | 1));
        changes = places.iter().map(|place| changes[*place as usize].clone()).collect();

        let operations = NetEffect::of(&changes).expect("the changes fit together");
        let mut elsewhere = start;
        apply(&mut elsewhere, &operations);
        let here: BTreeMap<u8, u8> = transaction.rows.into_iter().map(|(key, (_, value))| (key, value)).collect();
        prop_assert_eq!(elsewhere, here);
        let distinct = operations.len();
        prop_assert!(distinct <= 12, "at most one operation per row that was there or is there");
    }
}

#[test]
fn an_update_to_the_same_values_is_no_operation() {
    let old = Some((RowVersion(1), row(&[number(1), Value::Unchanged])));
    let new = Some((RowVersion(2), row(&[Value::Unchanged, Value::Unchanged])));
    assert_eq!(NetEffect::of(&[Change { table: TABLE, old, new }]), Ok(Vec::new()));
}

#[test]
fn changes_that_do_not_fit_together_are_refused() {
    let change = |old: u64, new: u64| Change {
        table: TABLE,
        old: Some((RowVersion(old), row(&[number(1)]))),
        new: Some((RowVersion(new), row(&[number(2)]))),
    };
    assert_eq!(
        NetEffect::of(&[change(1, 2), change(1, 3)]),
        Err(NetEffectError::TwoChanges { table: TABLE, version: RowVersion(1) })
    );
    assert_eq!(NetEffect::of(&[change(1, 2), change(2, 1)]), Err(NetEffectError::Circle(2)));
}

#[test]
fn a_definition_becomes_statements_and_names_its_first_difference() {
    let wanted = definition();
    assert_eq!(
        wanted.create_statements(),
        ["CREATE TABLE \"public\".\"t\" (\"k\" integer NOT NULL) WITH (fillfactor=70)"]
    );
    assert_eq!(
        wanted.grant_statements(|role| role == "clerk"),
        ["GRANT SELECT ON \"public\".\"t\" TO \"clerk\" WITH GRANT OPTION"]
    );
    assert_eq!(wanted.grant_statements(|_| false), [""; 0]);
    assert_eq!(wanted.first_difference(&definition()), None);
    let mut found = definition();
    found.columns[0].type_name = "bigint".into();
    assert_eq!(
        wanted.first_difference(&found).as_deref(),
        Some("column 1 is \"k\" bigint NOT NULL instead of \"k\" integer NOT NULL")
    );
}
