//! Tests of the queue alone: by example, by property, and with every interleaving that loom finds.

use super::*;

fn words(count: usize) -> Vec<AtomicU64> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

#[cfg(not(loom))]
mod by_example {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    /// Reads and releases everything that can be read.
    fn drain(queue: &Queue<'_>) -> Vec<Vec<u8>> {
        let (mut place, mut buffer, mut read) = (queue.tail(), Vec::new(), vec![]);
        loop {
            match queue.read(place, &mut buffer) {
                Next::Nothing => break,
                Next::Cancelled { after } => place = after,
                Next::Events { after, .. } => {
                    read.push(buffer.clone());
                    place = after;
                }
            }
        }
        queue.release(place);
        read
    }

    #[test]
    fn a_committed_transaction_is_read_and_an_aborted_one_is_not() {
        let (control, words) = (Control::default(), words(16));
        let queue = Queue::new(&control, &words);
        let first = queue.reserve(b"first", 1).unwrap();
        let second = queue.reserve(b"second transaction", 2).unwrap();
        queue.cancel(first);
        queue.commit(second);
        assert_eq!(drain(&queue), [b"second transaction"]);
        assert_eq!(queue.used(), 0);
    }

    #[test]
    fn nothing_overtakes_a_transaction_that_is_still_committing() {
        let (control, words) = (Control::default(), words(16));
        let queue = Queue::new(&control, &words);
        let first = queue.reserve(b"first", 1).unwrap();
        let second = queue.reserve(b"second", 2).unwrap();
        queue.commit(second);
        assert!(drain(&queue).is_empty());
        queue.commit(first);
        assert_eq!(drain(&queue), [b"first".to_vec(), b"second".to_vec()]);
    }

    #[test]
    fn a_transaction_that_does_not_fit_is_refused_without_a_trace() {
        let (control, words) = (Control::default(), words(4));
        let queue = Queue::new(&control, &words);
        assert_eq!(queue.longest(), 16);
        assert!(queue.reserve(&[7; 17], 1).is_none());
        assert_eq!(queue.used(), 0);
        let whole = queue.reserve(&[7; 16], 1).unwrap();
        assert!(queue.reserve(b"", 1).is_none());
        queue.commit(whole);
        assert_eq!(drain(&queue), [[7; 16]]);
        assert_eq!(queue.highest(), 32);
    }

    proptest! {
        /// Compares with a model: any sequence of reserving, settling and reading, in a queue so
        /// small that frames wrap at every position.
        #[test]
        fn the_queue_behaves_like_a_list_of_transactions(
            size in 2usize..24,
            steps in prop::collection::vec((0u8..4, prop::collection::vec(any::<u8>(), 0..40)), 0..200)
        ) {
            let (control, words) = (Control::default(), words(size));
            let queue = Queue::new(&control, &words);
            let mut open: VecDeque<(usize, Reservation)> = VecDeque::new();
            // Each transaction's events, and whether it committed, after its end.
            let mut model: Vec<(Vec<u8>, Option<bool>)> = vec![];
            let (mut next, mut expected, mut read) = (0, vec![], vec![]);
            for (what, events) in steps {
                match what {
                    0 | 1 => {
                        if let Some(reservation) = queue.reserve(&events, 0) {
                            open.push_back((model.len(), reservation));
                            model.push((events, None));
                        }
                    }
                    2 => {
                        let end = if events.len() % 2 == 0 { open.pop_front() } else { open.pop_back() };
                        if let Some((index, reservation)) = end {
                            let commits = events.len() % 3 != 0;
                            model[index].1 = Some(commits);
                            if commits { queue.commit(reservation) } else { queue.cancel(reservation) }
                        }
                    }
                    _ => {
                        while let Some((events, Some(committed))) = model.get(next) {
                            if *committed { expected.push(events.clone()); }
                            next += 1;
                        }
                        read.extend(drain(&queue));
                    }
                }
                prop_assert!(queue.used() <= queue.size());
            }
            prop_assert_eq!(read, expected);
        }
    }

    #[test]
    fn threads_lose_nothing_and_keep_each_writers_order() {
        let (control, words) = (Control::default(), words(64));
        let queue = Queue::new(&control, &words);
        const WRITERS: u64 = 4;
        const EACH: u64 = 5_000;
        let mut read: Vec<(u64, u64)> = vec![];
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                scope.spawn(move || {
                    for number in 0..EACH {
                        let events = [writer.to_ne_bytes(), number.to_ne_bytes()].concat();
                        let reservation = loop {
                            match queue.reserve(&events, 0) {
                                Some(reservation) => break reservation,
                                None => std::thread::yield_now(),
                            }
                        };
                        if number % 3 == 0 {
                            queue.cancel(reservation);
                        } else {
                            queue.commit(reservation);
                        }
                    }
                });
            }
            let committed = WRITERS * (0..EACH).filter(|number| number % 3 != 0).count() as u64;
            while (read.len() as u64) < committed {
                for events in drain(&queue) {
                    let word = |range: std::ops::Range<usize>| {
                        u64::from_ne_bytes(events[range].try_into().unwrap())
                    };
                    read.push((word(0..8), word(8..16)));
                }
            }
        });
        for writer in 0..WRITERS {
            let numbers: Vec<_> = read
                .iter()
                .filter(|(from, _)| *from == writer)
                .map(|(_, number)| *number)
                .collect();
            let expected: Vec<_> = (0..EACH).filter(|number| number % 3 != 0).collect();
            assert_eq!(numbers, expected);
        }
    }
}

/// `RUSTFLAGS="--cfg loom" cargo test --release --package civic_queue`
#[cfg(loom)]
mod every_interleaving {
    use super::*;
    use loom::sync::Arc;

    /// Two writers, one of which aborts, and the reader, over memory that all three must share.
    #[test]
    fn a_reader_sees_whole_committed_transactions_in_their_order() {
        loom::model(|| {
            let memory = Arc::new((Control::default(), words(6)));
            let writers: Vec<_> = [(1u8, true), (2, false)]
                .into_iter()
                .map(|(mark, commits)| {
                    let memory = memory.clone();
                    loom::thread::spawn(move || {
                        let queue = Queue::new(&memory.0, &memory.1);
                        let Some(reservation) = queue.reserve(&[mark; 8], mark.into()) else {
                            panic!("there is room for both");
                        };
                        if commits { queue.commit(reservation) } else { queue.cancel(reservation) }
                    })
                })
                .collect();
            let queue = Queue::new(&memory.0, &memory.1);
            let mut read = read_all(&queue);
            writers.into_iter().for_each(|writer| writer.join().unwrap());
            read.extend(read_all(&queue));
            assert_eq!(read, [[1; 8]]);
            assert_eq!(queue.used(), 0);
        });
    }

    /// A writer always finds released room zeroed, so it cannot take an old header for its own.
    #[test]
    fn a_second_lap_never_reads_the_first() {
        loom::model(|| {
            let memory = Arc::new((Control::default(), words(3)));
            let queue = Queue::new(&memory.0, &memory.1);
            let first = queue.reserve(&[1; 8], 1).unwrap();
            queue.commit(first);
            let writer = {
                let memory = memory.clone();
                loom::thread::spawn(move || {
                    let queue = Queue::new(&memory.0, &memory.1);
                    if let Some(second) = queue.reserve(&[2; 8], 2) {
                        queue.commit(second);
                        return true;
                    }
                    false
                })
            };
            let mut read = read_all(&queue);
            let wrote = writer.join().unwrap();
            read.extend(read_all(&queue));
            let expected = if wrote { vec![vec![1; 8], vec![2; 8]] } else { vec![vec![1; 8]] };
            assert_eq!(read, expected);
        });
    }

    fn read_all(queue: &Queue<'_>) -> Vec<Vec<u8>> {
        let (mut place, mut buffer, mut read) = (queue.tail(), Vec::new(), vec![]);
        loop {
            match queue.read(place, &mut buffer) {
                Next::Nothing => break,
                Next::Cancelled { after } => place = after,
                Next::Events { after, .. } => {
                    read.push(buffer.clone());
                    place = after;
                }
            }
        }
        queue.release(place);
        read
    }
}
