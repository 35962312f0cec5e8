//! What a launch did, counted.

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        /// Sums over all threads of a launch.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters { $($(#[$doc])* pub $name: u64,)* }

        impl Counters {
            /// Adds another launch's.
            pub fn add(&mut self, other: &Counters) {
                $(self.$name += other.$name;)*
            }

            /// What came after the earlier of two readings.
            pub fn since(&self, earlier: &Counters) -> Counters {
                Counters { $($name: self.$name - earlier.$name,)* }
            }

            /// Names and values, in the order of the fields.
            pub fn entries(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name)),*]
            }
        }
    };
}

counters! {
    /// Blocks.
    blocks;
    /// Instructions of warps.
    warp_instructions;
    /// Instructions of threads: those of warps times the threads that took part.
    thread_instructions;
    /// Floating-point operations outside matrix instructions; a multiply-add counts twice.
    flops;
    /// Matrix instructions of warps.
    matrix_instructions;
    /// Operations of matrix instructions.
    matrix_flops;
    /// Bytes that threads asked of global memory.
    global_read_bytes;
    /// Bytes that threads sent to global memory.
    global_written_bytes;
    /// Loads and stores of warps that went to global memory.
    global_requests;
    /// Sectors of 32 bytes that they touched.
    global_sectors;
    /// Bytes that threads asked of shared memory.
    shared_read_bytes;
    /// Bytes that threads sent to shared memory.
    shared_written_bytes;
    /// Loads and stores of warps that went to shared memory.
    shared_requests;
    /// Passes beyond those that the width of the access needs.
    bank_conflicts;
    /// Bytes copied from global to shared memory without a register.
    async_bytes;
    /// Bytes copied from shared to global memory without a register.
    async_stored_bytes;
    /// Atomic operations of threads.
    atomics;
    /// Barriers that blocks completed.
    barriers;
    /// Phases of mbarriers that ended.
    mbarrier_phases;
    /// Branches at which a warp parted.
    divergent_branches;
}

impl Counters {
    /// Sectors of a request to global memory, on average.
    pub fn sectors_per_request(&self) -> f64 {
        self.global_sectors as f64 / self.global_requests.max(1) as f64
    }
}
