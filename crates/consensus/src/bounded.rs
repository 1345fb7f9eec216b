//! Lists that are decoded have a bound of their own (rule 11), asked before the first item is read.
//!
//! Without it a message within its size could still take sixteen times that in memory: an item that is one byte on the
//! link may be a hundred here, and what is too long would be refused only after all of it was read.

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

/// For `#[serde(deserialize_with = "at_most::<MOST, _, _, _>")]`: a list of at most `MOST` items.
///
/// # Errors
/// The list says that it is longer, or is; or an item does not decode.
pub fn at_most<'de, const MOST: usize, T, L, D>(deserializer: D) -> Result<L, D::Error>
where
    T: Deserialize<'de>,
    L: List<Item = T>,
    D: Deserializer<'de>,
{
    deserializer.deserialize_seq(Items::<MOST, T>(PhantomData)).map(L::from_items)
}

/// The same for a list that may be absent.
///
/// # Errors
/// As [`at_most`].
pub fn perhaps_at_most<'de, const MOST: usize, T, D>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    deserializer.deserialize_option(Perhaps::<MOST, T>(PhantomData))
}

/// The same for a map.
///
/// # Errors
/// As [`at_most`].
pub fn map_of_at_most<'de, const MOST: usize, K, V, D>(deserializer: D) -> Result<BTreeMap<K, V>, D::Error>
where
    K: Deserialize<'de> + Ord,
    V: Deserialize<'de>,
    D: Deserializer<'de>,
{
    deserializer.deserialize_map(Pairs::<MOST, K, V>(PhantomData))
}

/// What a list of items may be kept as.
pub trait List {
    /// What it is a list of.
    type Item;

    /// Takes the items.
    fn from_items(items: Vec<Self::Item>) -> Self;
}

impl<T> List for Vec<T> {
    type Item = T;

    fn from_items(items: Vec<T>) -> Vec<T> {
        items
    }
}

impl<T> List for std::sync::Arc<[T]> {
    type Item = T;

    fn from_items(items: Vec<T>) -> std::sync::Arc<[T]> {
        items.into()
    }
}

/// No item takes more on the way than a first allocation of this many allows for.
const FIRST_ITEMS: usize = 64;

struct Items<const MOST: usize, T>(PhantomData<T>);

impl<'de, const MOST: usize, T: Deserialize<'de>> Visitor<'de> for Items<MOST, T> {
    type Value = Vec<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "a list of at most {MOST} items")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let announced = list.size_hint().unwrap_or(0);
        if announced > MOST {
            return Err(A::Error::invalid_length(announced, &self));
        }
        let mut items = Vec::with_capacity(announced.min(FIRST_ITEMS));
        while let Some(item) = list.next_element()? {
            if items.len() == MOST {
                return Err(A::Error::invalid_length(MOST + 1, &self));
            }
            items.push(item);
        }
        Ok(items)
    }
}

struct Perhaps<const MOST: usize, T>(PhantomData<T>);

impl<'de, const MOST: usize, T: Deserialize<'de>> Visitor<'de> for Perhaps<MOST, T> {
    type Value = Option<Vec<T>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "nothing, or a list of at most {MOST} items")
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        at_most::<MOST, T, Vec<T>, D>(deserializer).map(Some)
    }
}

struct Pairs<const MOST: usize, K, V>(PhantomData<(K, V)>);

impl<'de, const MOST: usize, K: Deserialize<'de> + Ord, V: Deserialize<'de>> Visitor<'de> for Pairs<MOST, K, V> {
    type Value = BTreeMap<K, V>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "a map of at most {MOST} pairs")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let announced = map.size_hint().unwrap_or(0);
        if announced > MOST {
            return Err(A::Error::invalid_length(announced, &self));
        }
        let (mut pairs, mut count) = (BTreeMap::new(), 0);
        while let Some((key, value)) = map.next_entry()? {
            count += 1;
            if count > MOST {
                return Err(A::Error::invalid_length(count, &self));
            }
            pairs.insert(key, value);
        }
        Ok(pairs)
    }
}
