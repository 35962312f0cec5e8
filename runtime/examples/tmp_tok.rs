use llmc_runtime::weights;
fn main() {
    let base = std::env::args().nth(1).unwrap();
    let t0 = std::time::Instant::now();
    let tok = weights::gguf::GgufFile::open(std::path::Path::new(&base))
        .map(|f| {
            use weights::CheckpointFile;
            f.tokenizer().unwrap()
        })
        .unwrap();
    let dt = t0.elapsed();
    let inp = std::fs::read_to_string(std::env::args().nth(2).unwrap()).unwrap();
    let out = std::fs::read_to_string(std::env::args().nth(3).unwrap()).unwrap();
    let (mut ok, mut bad) = (0, 0);
    for (t, o) in inp.split("\n__ggml_vocab_test__\n").zip(out.lines()) {
        let want: Vec<u32> = o.split_whitespace().map(|x| x.parse().unwrap()).collect();
        let got = tok.encode(t, false).unwrap();
        if got == want {
            ok += 1
        } else {
            bad += 1;
            println!("{t:?}\n want {want:?}\n got  {got:?}");
        }
        let back = tok.decode(&got);
        if back != t {
            println!("decode {t:?} -> {back:?}")
        }
    }
    println!("{base}: {ok} ok, {bad} bad, load {dt:?}");
}
