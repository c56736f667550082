// What `procession gateway --thrift` offers: a queue of procession, for programs in any language that Thrift knows.
//
// By TCP, with the framed transport and the binary protocol. docs/thrift.md says what is promised.
//
//     thrift --gen py thrift/procession.thrift          # or java, go, cpp, ...
//     thrift --gen rs -out bin/procession/gateway thrift/procession.thrift     # what the gateway is built with

namespace py procession_thrift
namespace java org.procession.thrift
namespace go procession
namespace cpp procession

/** There is no room in the queue, and none came in the time that was given. */
exception Full {
  /** How many items may be in it. */
  1: required i64 maxsize
}

/** There was nothing in the time that was given: no item, or no result yet. It may come later. */
exception Empty {
}

/** The queue was shut down: nobody puts any more, and what was in it has been taken. */
exception ShutDown {
}

/** `task_done` was called more often than `get` on this connection. */
exception NotGot {
}

/** It cannot be done as it was asked for: an item that is no MessagePack value, a time that is negative, an id that is not known. */
exception Refused {
  1: required string why
}

/** The queue cannot be reached at the moment. The gateway dials it anew when it is asked again. */
exception Unavailable {
  1: required string why
}

/** A worker has answered that the task failed. */
exception Failed {
  1: required string why
}

/** How things stand. */
struct Status {
  /** The queue's URL. */
  1: required string queue
  /** How many items are in it that nobody has taken, and how many are not done with. */
  2: required i64 items
  3: required i64 unfinished
  /** Connections of this gateway's clients. */
  4: required i32 connections
  /** Tasks that were submitted here and have no result yet, and results that wait to be asked for. */
  5: required i64 running
  6: required i64 results
}

/** A queue; a `JoinableQueue` in the library's words. Times are in milliseconds, and longer ones than a minute count as a minute. */
service Gateway {
  /** Puts an item: one MessagePack value, which is what getters of any language get. It is accepted when this returns. */
  void put(1: binary item, 2: i32 wait_ms) throws (1: Full full, 2: ShutDown shut_down, 3: Refused refused, 4: Unavailable unavailable),

  /** Takes an item, which is this connection's until `task_done`, and goes to others if the connection ends before. */
  binary get(1: i32 wait_ms) throws (1: Empty empty, 2: ShutDown shut_down, 3: Refused refused, 4: Unavailable unavailable),

  /** The item that this connection took first, of those for which it has not said so, is done with. */
  void task_done() throws (1: NotGot not_got, 2: Unavailable unavailable),

  /** Puts a task, for a worker that answers (examples/gateway_worker.rs): its id. */
  string submit(1: binary payload, 2: i32 wait_ms) throws (1: Full full, 2: ShutDown shut_down, 3: Refused refused, 4: Unavailable unavailable),

  /** The result of a task. It may be asked for again for a minute after it was given. */
  binary result(1: string id, 2: i32 wait_ms) throws (1: Empty empty, 2: Failed failed, 3: Refused refused, 4: Unavailable unavailable),

  Status status() throws (1: Unavailable unavailable)
}
