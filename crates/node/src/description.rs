//! Between the core's configuration and what clients see of it.

use bytes::Bytes;
use client::{GroupDescription, MemberDescription, MemberRole, NewMember};
use consensus::{Configuration, Member, Role};

/// Stands between a member's label and its database in the core's one text per member. Neither may contain it.
const SEPARATOR: char = '\u{1f}';

/// The core's text for a member.
pub(crate) fn member_text(label: &str, database: &str) -> String {
    format!("{label}{SEPARATOR}{database}")
}

/// Whether a label or database can stand in a member's text.
pub(crate) fn is_plain(text: &str) -> bool {
    text.len() <= crate::limits::NAME_BYTES_MAX && !text.contains([SEPARATOR, '\0', '\n'])
}

/// A member as the core keeps it.
pub(crate) fn member(new: &NewMember) -> Member {
    Member {
        node: new.node,
        address: new.address.clone(),
        public_key: new.public_key.to_vec(),
        role: if new.witness { Role::NewWitness } else { Role::Learner },
        label: member_text(&new.label, &new.database),
    }
}

/// A member as clients see it.
pub(crate) fn member_description(member: &Member) -> MemberDescription {
    let (label, database) = member.label.split_once(SEPARATOR).unwrap_or((&member.label, ""));
    MemberDescription {
        node: member.node,
        role: match member.role {
            Role::Voter => MemberRole::Voter,
            Role::Leaving | Role::LeavingWitness => MemberRole::Leaving,
            Role::Witness => MemberRole::Witness,
            Role::NewWitness => MemberRole::NewWitness,
            Role::Away => MemberRole::Away,
            _ => MemberRole::Learner,
        },
        address: member.address.clone(),
        public_key: Bytes::copy_from_slice(&member.public_key),
        label: label.to_string(),
        database: database.to_string(),
    }
}

/// Who is in a group and as what, for the server's log.
pub(crate) fn members_text(configuration: &Configuration) -> String {
    let one = |member: &Member| {
        let described = member_description(member);
        format!("\"{}\" ({})", described.label, described.role)
    };
    let all: Vec<String> = configuration.members.iter().map(one).collect();
    all.join(", ")
}

/// A group as clients see it.
pub(crate) fn group_description(configuration: &Configuration) -> GroupDescription {
    GroupDescription {
        group: configuration.group,
        name: configuration.name.clone(),
        kind: configuration.kind.clone(),
        epoch: configuration.epoch.0,
        members: configuration.members.iter().map(member_description).collect(),
        configuration: postcard::to_stdvec(configuration).expect("a configuration always encodes").into(),
    }
}

/// The configuration inside a description, checked.
pub(crate) fn configuration(description: &GroupDescription) -> Result<Configuration, String> {
    let configuration: Configuration =
        postcard::from_bytes(&description.configuration).map_err(|error| format!("cannot decode it: {error}"))?;
    configuration.check().map_err(|error| error.to_string())?;
    if configuration.group != description.group {
        return Err("it belongs to another group".to_string());
    }
    Ok(configuration)
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::{GroupId, NodeId};

    #[test]
    fn a_group_survives_the_way_to_a_joiner_and_back() {
        let first = NewMember {
            node: NodeId(7),
            address: "host:1".into(),
            public_key: Bytes::from_static(b"key"),
            label: "host=a dbname=b".into(),
            database: "b".into(),
            witness: false,
        };
        let made = Configuration::first(GroupId(1), "name", "tables", "b", member(&first));
        let description = group_description(&made);
        assert_eq!(description.members[0].label, "host=a dbname=b");
        assert_eq!(description.members[0].database, "b");
        assert_eq!(configuration(&description).unwrap(), made);
        let forged = GroupDescription { group: GroupId(2), ..description };
        assert!(configuration(&forged).is_err());
    }
}
