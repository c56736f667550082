//! Pipes between real processes: what is sent arrives, whoever dies; the end is seen, and by nobody too early.

use procession::{Bytes, Connection, Error, Pipe, Process};

type Outcome = Result<(), Box<dyn std::error::Error>>;

#[procession::task]
fn echo(connection: Connection<Bytes, Bytes>) -> procession::Result<u64> {
    let mut count = 0;
    loop {
        match connection.recv() {
            Ok(bytes) => connection.send(&bytes)?,
            Err(Error::EndOfFile) => return Ok(count),
            Err(error) => return Err(error),
        }
        count += 1;
    }
}

#[test]
fn a_child_answers_until_the_end_of_file() -> Outcome {
    let (here, there) = Pipe::new::<Bytes, Bytes>()?;
    let process = Process::spawn(echo, (there,))?;
    for len in [
        0,
        1,
        31,
        32,
        33,
        1000,
        65_536,
        (1 << 20) - 8,
        1 << 20,
        3_000_000,
    ] {
        let bytes = Bytes::from(vec![7; len]);
        here.send(&bytes)?;
        assert!(here.recv()? == bytes, "{len} bytes differ");
    }
    here.close();
    assert_eq!(process.join()?, 10);
    Ok(())
}

#[procession::task]
fn say_and_go(connection: Connection<String, ()>, words: Vec<String>) -> procession::Result<()> {
    for word in &words {
        connection.send(word)?;
    }
    Ok(())
}

#[test]
fn what_a_child_sent_before_it_exited_is_received_by_a_parent_that_joins_first() -> Outcome {
    let (here, there) = Pipe::new::<(), String>()?;
    let words: Vec<String> = (0..1000).map(|i| i.to_string()).collect();
    Process::spawn(say_and_go, (there, words.clone()))?.join()?;
    for word in &words {
        assert_eq!(here.recv()?, *word);
    }
    assert!(matches!(here.recv(), Err(Error::EndOfFile)));
    Ok(())
}

#[test]
fn the_same_when_the_parent_used_its_end_before() -> Outcome {
    let (here, there) = Pipe::new::<(), String>()?;
    assert_eq!(here.try_recv()?, None);
    let words: Vec<String> = (0..1000).map(|i| i.to_string()).collect();
    Process::spawn(say_and_go, (there, words.clone()))?.join()?;
    for word in &words {
        assert_eq!(here.recv()?, *word);
    }
    assert!(matches!(here.recv(), Err(Error::EndOfFile)));
    Ok(())
}

#[test]
fn two_ends_in_one_process() -> Outcome {
    let (here, there) = Pipe::new::<u32, u32>()?;
    let thread = std::thread::spawn(move || -> procession::Result<()> {
        for _ in 0..1000 {
            there.send(&(there.recv()? + 1))?;
        }
        Ok(())
    });
    for i in 0..1000 {
        here.send(&i)?;
        assert_eq!(here.recv()?, i + 1);
    }
    thread.join().expect("no panic")?;
    assert!(matches!(here.recv(), Err(Error::EndOfFile)));
    assert!(matches!(here.send(&0), Err(Error::BrokenPipe)));
    Ok(())
}
