//! A worker for tasks that come through `procession gateway`: it takes them from the gateway's queue, and answers into the queue of results.
//!
//! ```text
//! procession queue --bind ipc:///tmp/queues
//! procession gateway --thrift 127.0.0.1:9090 --queue 'ipc:///tmp/queues?queue=jobs'
//! cargo run --example gateway_worker -- 'ipc:///tmp/queues?queue=jobs' 'ipc:///tmp/queues?queue=jobs.results'
//! ```
//!
//! A task is `(id, payload)`, a result `(id, whether it succeeded, what came of it)`. This one counts words; a payload that is no text fails.
//! Start as many as there are cores: a task whose worker is killed goes to another.

use procession::{Bytes, Error, JoinableQueue};

type Task = (String, Bytes);
type TaskResult = (String, bool, Bytes);

fn main() -> procession::Result<()> {
    let mut words = std::env::args().skip(1);
    let (Some(tasks), Some(results)) = (words.next(), words.next()) else {
        eprintln!("usage: gateway_worker URL-OF-TASKS URL-OF-RESULTS");
        std::process::exit(2);
    };
    let tasks: JoinableQueue<Task> = JoinableQueue::open(&tasks)?;
    let results: JoinableQueue<TaskResult> = JoinableQueue::open(&results)?;
    for task in tasks.iter() {
        match task {
            Ok((id, payload)) => {
                let (good, outcome) = match count_words(&payload) {
                    Ok(count) => (true, count.to_string()),
                    Err(why) => (false, why),
                };
                results.put((id, good, outcome.into()))?;
                // The result is safe before the task is done with: killed in between, the task is done again, and the first result counts.
                results.flush()?;
            }
            // Somebody has put what is no task.
            Err(Error::Encoding { what, why }) => eprintln!("passed over: {what}: {why}"),
            Err(error) => return Err(error),
        }
        tasks.task_done()?;
    }
    Ok(())
}

fn count_words(payload: &[u8]) -> Result<usize, String> {
    let text = std::str::from_utf8(payload).map_err(|error| format!("it is no text: {error}"))?;
    Ok(text.split_whitespace().count())
}
