//! How long it takes from a worker's death to its task running elsewhere.
//!
//! Two worker processes share a run; whoever runs the next task is killed with SIGKILL, and the other one says when it begins.
//!
//! ```text
//! cargo run --release --example failover_speed           50 deaths
//! cargo run --release --example failover_speed -- 200    as many as you like
//! ```
//!
//! You should see the median and the longest time in milliseconds.

use std::collections::HashMap;
use std::error::Error;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use procession::pipeline::{Sink, Ventilator, Worker};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

fn main() -> Outcome {
    let mut words = std::env::args().skip(1);
    let first = words.next();
    if let (Some("worker"), Some(endpoint)) = (first.as_deref(), words.next()) {
        return work(&endpoint);
    }
    measure(first.as_deref().unwrap_or("50").parse()?)
}

/// Says that a task begins, and takes long over it.
fn work(endpoint: &str) -> Outcome {
    Worker::connect(endpoint)?.run(|task: u64| {
        println!("{task}");
        std::thread::sleep(Duration::from_millis(150));
        task
    })?;
    Ok(())
}

struct Workers {
    endpoint: String,
    running: HashMap<u32, Child>,
    tell: Sender<(u32, u64, Instant)>,
}

impl Workers {
    fn start(&mut self) -> Outcome {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["worker", &self.endpoint])
            .stdout(Stdio::piped())
            .spawn()?;
        let (pid, tell) = (child.id(), self.tell.clone());
        let output = child.stdout.take().ok_or("no output")?;
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Ok(task) = line.parse() {
                    let _ = tell.send((pid, task, Instant::now()));
                }
            }
        });
        self.running.insert(pid, child);
        Ok(())
    }
}

fn measure(deaths: usize) -> Outcome {
    let endpoint = format!("ipc:///tmp/failover-{}", std::process::id());
    let ventilator: Ventilator<u64> = Ventilator::bind(&endpoint)?;
    let mut sink: Sink<u64> = Sink::connect(&endpoint)?;
    let (done, finished) = channel();
    let results = std::thread::spawn(move || {
        while let Ok(Some(_)) = sink.get() {
            let _ = done.send(());
        }
    });
    let (tell, begins): (_, Receiver<(u32, u64, Instant)>) = channel();
    let mut workers = Workers {
        endpoint,
        running: HashMap::new(),
        tell,
    };
    workers.start()?;
    workers.start()?;
    let mut times = Vec::new();
    for task in 1..=deaths as u64 {
        ventilator.put(task)?;
        let holder = loop {
            let (pid, begun, _) = begins.recv()?;
            if begun == task {
                break pid;
            }
        };
        // Both are there, and the start has been told.
        while ventilator
            .handle()
            .state()
            .peers
            .iter()
            .filter(|peer| peer.role == "worker")
            .count()
            < 2
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(20));
        let mut victim = workers.running.remove(&holder).ok_or("a stranger")?;
        let killed = Instant::now();
        victim.kill()?;
        let again = loop {
            let (_, begun, at) = begins.recv()?;
            if begun == task {
                break at;
            }
        };
        times.push(again.duration_since(killed));
        victim.wait()?;
        workers.start()?;
        // The next one is to find the other worker idle.
        finished.recv()?;
    }
    ventilator.finish()?;
    results.join().map_err(|_| "the sink panicked")?;
    for mut worker in workers.running.into_values() {
        worker.wait()?;
    }
    times.sort_unstable();
    let millis = |time: Duration| time.as_secs_f64() * 1000.0;
    println!(
        "{} deaths: median {:.1} ms, longest {:.1} ms until the task ran elsewhere",
        times.len(),
        millis(times[times.len() / 2]),
        millis(times[times.len() - 1])
    );
    Ok(())
}
