//! How a node becomes a witness: a member adds it without a vote, so that its key is known before it dials; once it has what
//! it must keep, it votes. Every step can be repeated.

use super::{groups, not_answering, ANSWER_WAIT};
use crate::failure::{Failure, Reason};
use client::{Connection, GroupDescription, MemberRole, Request};
use node::EngineHandle;
use postgres::{Client, NoTls};
use std::time::{Duration, Instant};

/// How long to ask again while the answer is "not yet": another change is under way, or the node is still catching up.
const PATIENCE: Duration = Duration::from_secs(120);

/// The pause in between.
const PAUSE: Duration = Duration::from_millis(200);

/// One node on its way into one group.
pub struct Admission<'a> {
    /// The node.
    pub engine: &'a EngineHandle,
    /// The group's name.
    pub group: &'a str,
    /// How to connect to a member's server.
    pub member: &'a str,
}

impl Admission<'_> {
    /// Does what is left to do.
    pub fn complete(&self) -> Result<(), Failure> {
        match self.role()? {
            Some(Some(MemberRole::Witness)) => return Ok(()),
            Some(None) => {
                return Err(Failure::new(
                    Reason::Group,
                    format!("cannot be a witness of group \"{}\" again", self.group),
                    "the group has removed this node",
                    "delete its directory, or give it another one: then it is a new node",
                ))
            }
            _ => {}
        }
        let mut server = self.connect()?;
        let (group, admission) = self.ask_to_be_added(&mut server)?;
        self.learn(admission)?;
        let deadline = Instant::now() + PATIENCE;
        while !matches!(self.role()?, Some(Some(MemberRole::Witness))) {
            let promote = "SELECT pgp_metadata.promote_member($1::text::uuid, $2::text::uuid)";
            let asked = server.execute(promote, &[&group, &self.node()]);
            if let Err(error) = asked {
                if Instant::now() >= deadline || error.code().is_none() {
                    return Err(self.refused("vote in", &error));
                }
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// What the node is in the group; none if its engine does not know it.
    fn role(&self) -> Result<Option<Option<MemberRole>>, Failure> {
        let groups = groups(self.engine)?;
        Ok(groups.into_iter().find(|group| group.name == self.group).map(|group| group.role))
    }

    fn node(&self) -> String {
        format!("{:032x}", self.engine.node().0)
    }

    fn connect(&self) -> Result<Client, Failure> {
        Client::connect(self.member, NoTls).map_err(|error| {
            Failure::new(
                Reason::Group,
                format!("cannot ask a member of group \"{}\"", self.group),
                explain(&error),
                "check the connection string after --member, and that the server lets this machine in (pg_hba.conf)",
            )
        })
    }

    fn ask_to_be_added(&self, server: &mut Client) -> Result<(String, GroupDescription), Failure> {
        let engine = Connection::connect(self.engine.socket(), ANSWER_WAIT).map_err(|error| not_answering(&error))?;
        let own = engine.engine();
        let admit = "SELECT group_id::text, admission FROM pgp_metadata.admit_witness($1, $2::text::uuid, $3, $4)";
        let row = server
            .query_one(admit, &[&self.group, &self.node(), &own.address, &own.public_key.to_vec()])
            .map_err(|error| self.refused("join", &error))?;
        let group: String = row.get(0);
        let bytes: Vec<u8> = row.get(1);
        let admission = postcard::from_bytes(&bytes).map_err(|error| {
            Failure::new(
                Reason::Group,
                format!("cannot join group \"{}\"", self.group),
                format!("the member's answer makes no sense here: {error}"),
                "use the same version of synod and of the extension",
            )
        })?;
        Ok((group, admission))
    }

    fn learn(&self, group: GroupDescription) -> Result<(), Failure> {
        let mut engine =
            Connection::connect(self.engine.socket(), ANSWER_WAIT).map_err(|error| not_answering(&error))?;
        let learn = Request::LearnGroup { group, await_state: false };
        engine.call(&learn, ANSWER_WAIT).map(|_| ()).map_err(|error| not_answering(&error))
    }

    fn refused(&self, doing: &str, error: &postgres::Error) -> Failure {
        let remedy = error.as_db_error().and_then(|error| error.hint()).unwrap_or("see to that and start it again");
        Failure::new(Reason::Group, format!("cannot {doing} group \"{}\"", self.group), explain(error), remedy)
    }
}

fn explain(error: &postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
}
