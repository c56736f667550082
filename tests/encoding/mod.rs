//! Any message, written again.

use procession::wire::frame::{Batch, Message, encode, encode_part};

/// A message that was read, written again.
pub fn encode_again(message: &Message) -> Vec<u8> {
    match message {
        Message::Hello(m) => encode(m),
        Message::Welcome(m) => encode(m),
        Message::Refused(m) => encode(m),
        Message::Credit(m) => encode(m),
        Message::Heartbeat(m) => encode(m),
        Message::Returned(m) | Message::Revoke(m) => encode(m),
        Message::Again(m) => encode(m),
        Message::Goodbye(m) => encode(m),
        Message::SinkAt(m) => encode(m),
        Message::Done(m) => encode(m),
        Message::Rejoin(m) | Message::Pill(m) | Message::Stop(m) | Message::Last(m) => encode(m),
        Message::Tasks(m) => {
            let mut batch = Batch::tasks(m.run);
            for entry in &m.entries {
                batch.push_task(entry.id, entry.attempt, entry.tries_left, &entry.place);
            }
            batch.finish()
        }
        Message::Part(m) => encode_part(m),
        Message::Results(m) => {
            let mut batch = Batch::results(m.run, m.peer, m.link);
            m.entries.iter().for_each(|entry| batch.push_result(entry));
            batch.finish()
        }
        Message::Ack(m) => encode(m),
        Message::Status(m) => encode(m),
        Message::State(m) => encode(m),
        Message::Items(m) => {
            let mut batch = Batch::items(m.run);
            for entry in &m.entries {
                batch.push_task(entry.id, entry.attempt, entry.items, &entry.place);
            }
            batch.finish()
        }
        Message::Put(m) => {
            let mut batch = Batch::puts(m.run, m.peer, m.link, m.prompt);
            for entry in &m.entries {
                batch.push_put(entry.number, entry.items, &entry.place);
            }
            batch.finish()
        }
        Message::Room(m) => encode(m),
        Message::Want(m) => encode(m),
        Message::Confirm(m) => encode(m),
        Message::Ask(m) | Message::Answer(m) => encode(m),
        Message::Obituaries(m) => encode(m),
        Message::Doomed(m) => encode(m),
        Message::Find(m) => encode(m),
        Message::Found(m) => encode(m),
        Message::OtherVersion(_) => Vec::new(),
    }
}
