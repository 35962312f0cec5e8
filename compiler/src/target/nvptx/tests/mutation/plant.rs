//! What bugs a line of PTX can have: one edit each.

/// Kinds of bugs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bug {
    /// A barrier is left out.
    Barrier,
    /// Copies or products are not waited for.
    Wait,
    /// A comparison of numbers lets one more in, or one less.
    Bound,
    /// Two elements of a fragment or of a vector change places.
    Fragment,
    /// What was done under a condition is always done.
    Tail,
}

impl Bug {
    /// Every kind.
    pub const ALL: [Bug; 5] = [Bug::Barrier, Bug::Wait, Bug::Bound, Bug::Fragment, Bug::Tail];
}

/// A text with one bug.
pub struct Mutant {
    /// Its kind.
    pub bug: Bug,
    /// Where, and what was done.
    pub place: String,
    /// The whole text.
    pub text: String,
}

/// The text with every bug that it can have, or, of more than `most` of a kind, with as many evenly spread ones; of what keeps
/// things in order always with all.
pub fn mutants(text: &str, most: Option<usize>) -> Vec<Mutant> {
    let lines: Vec<&str> = text.lines().collect();
    let of = |bug: Bug| {
        let sites: Vec<(usize, String)> =
            lines.iter().enumerate().filter_map(|(i, line)| Some((i, planted(bug, line)?))).collect();
        let most = most.filter(|_| !matches!(bug, Bug::Barrier | Bug::Wait)).unwrap_or(usize::MAX);
        let (count, most) = (sites.len(), most.min(sites.len()));
        // The middle of each of as many equal parts.
        let chosen: Vec<usize> = (0..most).map(|n| (2 * n + 1) * count / (2 * most)).collect();
        let one = |n: usize| {
            let (at, edited) = &sites[n];
            let mut edit: Vec<&str> = lines.clone();
            edit[*at] = edited;
            let place = format!("line {}: `{}` to `{}`", at + 1, lines[*at].trim(), edited.trim());
            Mutant { bug, place, text: edit.join("\n") }
        };
        chosen.into_iter().map(one).collect::<Vec<_>>()
    };
    Bug::ALL.into_iter().flat_map(of).collect()
}

/// The bug of this kind that a line can have.
fn planted(bug: Bug, line: &str) -> Option<String> {
    let code = line.trim();
    let indent = &line[..line.len() - line.trim_start().len()];
    let edited = match bug {
        Bug::Barrier => {
            let barrier = ["bar.sync", "barrier.sync", "barrier.cta.sync", "bar.warp.sync"];
            barrier.iter().any(|b| code.starts_with(b)).then(String::new)
        }
        Bug::Wait => waited(code),
        Bug::Bound => bound(code),
        Bug::Fragment => swapped(code),
        Bug::Tail => tail(code),
    }?;
    Some(format!("{indent}{edited}"))
}

/// `cp.async.wait_group 0;` left out, `mbarrier.try_wait.b64 %p1, ...` that always says yes.
fn waited(code: &str) -> Option<String> {
    let wait = ["cp.async.wait", "wgmma.wait_group", "cp.async.bulk.wait_group"];
    if wait.iter().any(|w| code.starts_with(w)) {
        return Some(String::new());
    }
    let asks = ["mbarrier.try_wait", "mbarrier.test_wait"].iter().any(|w| code.starts_with(w));
    let (_, operands) = code.strip_suffix(';').filter(|_| asks)?.split_once(char::is_whitespace)?;
    Some(format!("setp.eq.u32 \t{}, 0, 0;", split(operands).first()?))
}

/// `setp.lt.s64 ...` to `setp.le.s64 ...`
fn bound(code: &str) -> Option<String> {
    let rest = code.strip_prefix("setp.")?;
    let (comparison, rest) = rest.split_once('.')?;
    let other = match comparison {
        "lt" => "le",
        "le" => "lt",
        "gt" => "ge",
        "ge" => "gt",
        _ => return None,
    };
    let integer = ["s16", "s32", "s64", "u16", "u32", "u64"].iter().any(|ty| rest.starts_with(ty));
    integer.then(|| format!("setp.{other}.{rest}"))
}

/// `mma ... {a, b, c, d}` to `{b, a, c, d}`, and vectors that are loaded and stored.
fn swapped(code: &str) -> Option<String> {
    let (mnemonic, operands) = code.strip_suffix(';')?.split_once(char::is_whitespace)?;
    let mut parts = split(operands.trim());
    match mnemonic.split('.').next()? {
        // The left matrix of a product; its elements lie in other rows than their neighbours'.
        "mma" => parts[1] = exchanged(&parts[1])?,
        "ldmatrix" => parts[0] = exchanged(&parts[0])?,
        "ld" if parts[0].starts_with('{') => parts[0] = exchanged(&parts[0])?,
        "st" if parts.get(1)?.starts_with('{') => parts[1] = exchanged(&parts[1])?,
        _ => return None,
    }
    Some(format!("{mnemonic} \t{};", parts.join(", ")))
}

/// Operands, whole vectors and addresses among them.
fn split(operands: &str) -> Vec<String> {
    let (mut parts, mut depth) = (vec![String::new()], 0);
    for c in operands.chars() {
        depth += matches!(c, '{' | '[' | '(') as i32 - matches!(c, '}' | ']' | ')') as i32;
        match (c, depth) {
            (',', 0) => parts.push(String::new()),
            _ => parts.last_mut().expect("it starts with one").push(c),
        }
    }
    parts.iter().map(|p| p.trim().to_string()).collect()
}

/// A vector whose first two elements change places; none where they are one register.
fn exchanged(vector: &str) -> Option<String> {
    let mut elements = split(vector.strip_prefix('{')?.strip_suffix('}')?);
    if elements.len() < 2 || elements[0] == elements[1] {
        return None;
    }
    elements.swap(0, 1);
    Some(format!("{{{}}}", elements.join(", ")))
}

/// `@%p1 st.global ...` without its condition; a branch that leaves something out is never taken.
fn tail(code: &str) -> Option<String> {
    let (_, rest) = code.strip_prefix('@')?.split_once(char::is_whitespace)?;
    let rest = rest.trim_start();
    Some(if rest.starts_with("bra") { String::new() } else { rest.to_string() })
}

#[test]
fn lines_get_the_bugs_that_they_can_have() {
    let planted = |bug, line: &str| planted(bug, line).map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "));
    let some = |text: &str| Some(text.to_string());
    assert_eq!(planted(Bug::Barrier, "\tbar.sync \t0;"), some(""));
    assert_eq!(planted(Bug::Wait, "\tcp.async.wait_group 0;"), some(""));
    let asked = "mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r1], %r2;";
    assert_eq!(planted(Bug::Wait, asked), some("setp.eq.u32 %p1, 0, 0;"));
    assert_eq!(planted(Bug::Wait, "mbarrier.init.shared::cta.b64 [%r1], 1;"), None);
    assert_eq!(planted(Bug::Bound, "\tsetp.ge.s64 \t%p3, %rd14, %rd13;"), some("setp.gt.s64 %p3, %rd14, %rd13;"));
    assert_eq!(planted(Bug::Bound, "\tsetp.lt.f32 \t%p3, %f1, %f2;"), None);
    let vector = "ld.shared.v2.b32 \t{%r12, %r13}, [%rd45+512];";
    assert_eq!(planted(Bug::Fragment, vector), some("ld.shared.v2.b32 {%r13, %r12}, [%rd45+512];"));
    let product = "mma.sync.x {%d0}, {%a0, %a1, %a2}, {%b0}, {%c0};";
    assert_eq!(planted(Bug::Fragment, product), some("mma.sync.x {%d0}, {%a1, %a0, %a2}, {%b0}, {%c0};"));
    assert_eq!(planted(Bug::Fragment, "st.global.v2.b32 [%rd1], {%r1, %r1};"), None);
    assert_eq!(planted(Bug::Fragment, "fma.rn.f32 %r1, %r2, %r3, %r4;"), None);
    assert_eq!(planted(Bug::Tail, "\t@%p1 st.global.b32 \t[%rd1], %r1;"), some("st.global.b32 [%rd1], %r1;"));
    assert_eq!(planted(Bug::Tail, "\t@%p2 bra \t$L__BB3_51;"), some(""));
}

#[test]
fn bugs_are_spread_evenly() {
    let text = "setp.lt.s32 %p1, %r1, %r2;\n".repeat(10);
    let lines =
        |most| mutants(&text, most).iter().map(|m| m.place.split(':').next().map(str::to_owned)).collect::<Vec<_>>();
    assert_eq!(lines(None).len(), 10);
    let some = |n: u32| Some(format!("line {n}"));
    assert_eq!(lines(Some(2)), [some(3), some(8)]);
    assert_eq!(mutants(&"bar.sync 0;\n".repeat(10), Some(2)).len(), 10);
}
