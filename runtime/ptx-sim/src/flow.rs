//! Where threads that part at a branch meet again: the branch's nearest post-dominator in the control-flow graph
//! (Cooper, Harvey and Kennedy, "A simple, fast dominance algorithm", 2001, on the reversed graph).

/// Never: every path from here ends, or none does.
pub const NEVER: u32 = u32::MAX;

/// For every instruction the one at which what starts there surely arrives, other than itself. `next` lists the successors
/// of each instruction; one without successors ends the thread.
pub fn meeting_points(next: &[Vec<u32>]) -> Vec<u32> {
    let leaders = leaders(next);
    let blocks: Vec<usize> = (0..next.len()).filter(|i| leaders[*i]).collect();
    let mut block_of = vec![0u32; next.len()];
    for (b, first) in blocks.iter().enumerate() {
        let end = blocks.get(b + 1).copied().unwrap_or(next.len());
        block_of[*first..end].fill(b as u32);
    }
    let last = |b: usize| blocks.get(b + 1).copied().unwrap_or(next.len()) - 1;
    let follow: Vec<Vec<u32>> =
        (0..blocks.len()).map(|b| next[last(b)].iter().map(|i| block_of[*i as usize]).collect()).collect();
    let parents = post_dominators(&follow);
    let first_of = |b: u32| if (b as usize) < blocks.len() { blocks[b as usize] as u32 } else { NEVER };
    (0..next.len())
        .map(|i| {
            let b = block_of[i] as usize;
            if i < last(b) { i as u32 + 1 } else { parents[b].map_or(NEVER, first_of) }
        })
        .collect()
}

/// Instructions at which a basic block starts.
fn leaders(next: &[Vec<u32>]) -> Vec<bool> {
    let mut leads = vec![false; next.len()];
    if let Some(first) = leads.first_mut() {
        *first = true;
    }
    for (i, targets) in next.iter().enumerate() {
        if targets.len() == 1 && targets[0] as usize == i + 1 {
            continue;
        }
        targets.iter().for_each(|t| leads[*t as usize] = true);
        if let Some(after) = leads.get_mut(i + 1) {
            *after = true;
        }
    }
    leads
}

/// The nearest post-dominator of each block; the exit is the number after the last block, `None` where no path ends.
fn post_dominators(follow: &[Vec<u32>]) -> Vec<Option<u32>> {
    let exit = follow.len();
    let mut before = vec![Vec::new(); exit + 1];
    for (b, targets) in follow.iter().enumerate() {
        if targets.is_empty() {
            before[exit].push(b);
        }
        targets.iter().for_each(|t| before[*t as usize].push(b));
    }
    let order = reverse_post_order(&before, exit);
    let mut rank = vec![usize::MAX; exit + 1];
    order.iter().enumerate().for_each(|(r, b)| rank[*b] = r);
    let mut parent: Vec<Option<usize>> = vec![None; exit + 1];
    parent[exit] = Some(exit);
    let mut changed = true;
    while changed {
        changed = false;
        for b in order.iter().skip(1).copied() {
            let ends = [exit as u32];
            let targets: &[u32] = if follow[b].is_empty() { &ends } else { &follow[b] };
            let known = targets.iter().map(|t| *t as usize).filter(|t| parent[*t].is_some());
            let found = known.reduce(|x, y| common(&parent, &rank, x, y));
            if found != parent[b] {
                parent[b] = found;
                changed = true;
            }
        }
    }
    (0..exit).map(|b| parent[b].map(|p| p as u32)).collect()
}

fn common(parent: &[Option<usize>], rank: &[usize], mut x: usize, mut y: usize) -> usize {
    while x != y {
        let deeper = if rank[x] > rank[y] { &mut x } else { &mut y };
        *deeper = parent[*deeper].expect("only blocks with a parent are compared");
    }
    x
}

/// Blocks from the exit backwards, each after one that follows it.
fn reverse_post_order(before: &[Vec<usize>], exit: usize) -> Vec<usize> {
    let mut seen = vec![false; before.len()];
    let mut order = Vec::new();
    let mut stack = vec![(exit, 0)];
    seen[exit] = true;
    while let Some((b, child)) = stack.pop() {
        match before[b].get(child) {
            Some(next) => {
                stack.push((b, child + 1));
                if !std::mem::replace(&mut seen[*next], true) {
                    stack.push((*next, 0));
                }
            }
            None => order.push(b),
        }
    }
    order.reverse();
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_meet_where_their_sides_join() {
        // 0: if -> 1 or 3; 1, 2: one side; 3: other side; 4: join; 5: loop to 4 or 6; 6: exit
        let next = vec![vec![1, 3], vec![2], vec![4], vec![4], vec![5], vec![4, 6], vec![]];
        let meet = meeting_points(&next);
        assert_eq!(meet[0], 4);
        assert_eq!(meet[5], 6);
        assert_eq!(meet[6], NEVER);
    }

    #[test]
    fn early_exits_meet_never_and_endless_loops_do_not_matter() {
        // 0: exit at 2 or go on to 1; 1: exit. 3 and 4 are unreachable and endless.
        let meet = meeting_points(&[vec![1, 2], vec![], vec![], vec![4], vec![3]]);
        assert_eq!(meet[0], NEVER);
        assert_eq!((meet[3], meet[4]), (4, NEVER));
        assert!(meeting_points(&[]).is_empty());
    }
}
