//! A pipe in both directions, values and bytes, and what close means in two processes.
//!
//! ```text
//! cargo run --example pipe
//! ```
//!
//! You should see what the child received, what came back, and that each process closes its own end: the parent's copy of the
//! child's end is closed while the child goes on with it, and when the child is done the parent sees the end of file.

use procession::{Connection, Error, Pipe, Process};

/// What the child sends and receives.
type Child = Connection<Vec<String>, String>;

#[procession::task]
fn child(connection: Child) -> procession::Result<()> {
    let word = connection.recv()?;
    println!("child: received {word:?}");
    connection.send(&vec![word.clone(), word.to_uppercase()])?;

    let bytes = connection.recv_bytes(1024)?;
    println!("child: received {} bytes", bytes.len());
    // From the third byte on, four of them.
    connection.send_bytes_at(&bytes, 2, 4)?;

    connection.close();
    println!("child: closed its end");
    Ok(())
}

#[procession::main]
fn main() -> procession::Result<()> {
    // What is sent at the first is received at the second, and the other way round.
    let (conn1, conn2) = Pipe::new::<String, Vec<String>>()?;
    let process = Process::spawn(child, (conn2.clone(),))?;
    // This closes the end in this process only. Without it this process would wait for itself at the end of file.
    conn2.close();

    conn1.send(&"hello".to_owned())?;
    println!("parent: received {:?}", conn1.recv()?);

    conn1.send_bytes(b"0123456789")?;
    let mut buffer = [b'.'; 8];
    let len = conn1.recv_bytes_into(&mut buffer[2..])?;
    println!("parent: received {len} bytes: {}", buffer.escape_ascii());

    match conn1.recv() {
        Err(Error::EndOfFile) => println!("parent: end of file"),
        other => println!("parent: {other:?}"),
    }
    process.join()
}
