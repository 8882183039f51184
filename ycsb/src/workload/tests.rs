//! What properties make of a workload, and which of them are refused.

use super::*;

fn workload(files: &[&str], pairs: &[&str]) -> Result<Workload> {
    let own = |words: &[&str]| words.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    Workload::new(&Properties::gather(&own(files), &own(pairs))?)
}

fn shares(name: &str) -> Vec<(&'static str, u32)> {
    let workload = workload(&[name], &[]).unwrap();
    let mut rng = Rng::new(1, 0);
    let mut seen = [0_u32; Operation::ALL.len()];
    (0..100_000).for_each(|_| seen[workload.operation(&mut rng).index()] += 1);
    Operation::ALL
        .iter()
        .map(|op| (op.name(), (seen[op.index()] + 500) / 1000))
        .filter(|(_, n)| *n > 0)
        .collect()
}

#[test]
fn ready_made_workloads_have_their_mix() {
    assert_eq!(shares("a"), [("READ", 50), ("UPDATE", 50)]);
    assert_eq!(shares("b"), [("READ", 95), ("UPDATE", 5)]);
    assert_eq!(shares("c"), [("READ", 100)]);
    assert_eq!(shares("d"), [("READ", 95), ("INSERT", 5)]);
    assert_eq!(shares("e"), [("INSERT", 5), ("SCAN", 95)]);
    assert_eq!(shares("f"), [("READ", 50), ("READ-MODIFY-WRITE", 50)]);
}

#[test]
fn zipfian_leaves_room_for_inserts() {
    let w = workload(&["e"], &["recordcount=1000", "operationcount=10000"]).unwrap();
    let mut keys = w.choose_keys(&Acknowledged::new(1000));
    let mut rng = Rng::new(1, 0);
    // 1000 records, twice 500 expected inserts, and the inclusive bound: keys 0..=2000.
    let most = (0..200_000).map(|_| keys.draw(u64::MAX, &mut rng)).max();
    assert_eq!(most, Some(2000));
}

#[test]
fn errors_name_the_property_and_its_limit() {
    for (pair, say) in [
        ("recordcount=0", "recordcount=0: must be a whole number from 1 to 1000000000000"),
        ("recordcount=18446744073709551615", "from 1 to 1000000000000"),
        ("recordcount=99999999999999999999999", "from 1 to 1000000000000"),
        ("recordcount=-1", "from 1 to"),
        ("insertstart=1000", "at least one record"),
        ("insertstart=18446744073709551615", "from 0 to"),
        ("insertcount=1001", "none above recordcount"),
        ("insertcount=0", "from 1 to"),
        ("operationcount=18446744073709551615", "from 0 to 1000000000000000"),
        ("fieldcount=0", "fieldcount=0: must be a whole number from 1 to"),
        ("fieldcount=18446744073709551615", "from 1 to 16777216"),
        ("fieldcount=16777216", "the limit is 16777216"),
        ("fieldlength=99999999", "from 0 to 16777216"),
        ("fieldlength=2000000", "the limit is 16777216"),
        ("minfieldlength=18446744073709551615", "from 0 to 16777216"),
        ("requestdistribution=zipf", "must be uniform, zipfian"),
        ("insertorder=random", "hashed or ordered"),
        ("zeropadding=1001", "from 0 to 1000"),
        ("minscanlength=2000", "is above maxscanlength=1000"),
        ("maxscanlength=0", "from 1 to"),
        ("maxscanlength=18446744073709551615", "from 1 to 1000000000"),
        ("threadcount=0", "threadcount=0: must be a whole number from 1 to 10000"),
        ("threadcount=18446744073709551615", "from 1 to 10000"),
        ("target=NaN", "target=NaN: must be a number from 0 to 1000000000"),
        ("target=-1", "from 0 to"),
        ("target=inf", "from 0 to"),
        ("target=1e-300", "from 0.001 to"),
        ("maxexecutiontime=18446744073709551615", "from 0 to 1000000000"),
        ("core_workload_insertion_retry_limit=-1", "from 0 to"),
        ("core_workload_insertion_retry_interval=18446744073709551615", "from 0 to 3600"),
        ("readproportion=NaN", "from 0 to 1"),
        ("updateproportion=-0.1", "from 0 to 1"),
        ("hdrhistogram.percentiles=50,x", "\"x\" is not between"),
        ("hdrhistogram.percentiles=NaN", "is not between"),
        ("fieldlengthdistribution=histogram", "hist.txt"),
        ("measurementtype=nonsense", "measurementtype=nonsense is not offered: must be hdr"),
        ("measurementtype=timeseries", "--by-second"),
        ("workload=site.ycsb.workloads.RestWorkload", "only site.ycsb.workloads.Core"),
        ("readallfields=maybe", "true or false"),
    ] {
        let error = format!("{:#}", workload(&[], &[pair]).unwrap_err());
        assert!(error.contains(say), "{pair}: {error}");
    }
    for (pair, say) in [
        ("exponential.percentile=100", "from 1 to 99.999"),
        ("exponential.percentile=1e-300", "from 1 to 99.999"),
        ("exponential.percentile=NaN", "from 1 to 99.999"),
    ] {
        let pairs = ["requestdistribution=exponential", pair];
        let error = format!("{:#}", workload(&[], &pairs).unwrap_err());
        assert!(error.contains(say), "{pair}: {error}");
    }
    let none = ["readproportion=0", "updateproportion=0"];
    assert!(workload(&[], &none).unwrap_err().to_string().contains("nothing to do"));
}

/// The largest of everything: nothing overflows, and nothing takes for ever.
#[test]
fn the_limits_themselves_are_taken() {
    let largest = [
        "recordcount=1000000000000",
        "operationcount=1000000000000000",
        "insertproportion=1",
        "maxscanlength=1000000000",
        "scanlengthdistribution=zipfian",
        "target=1000000000",
        "maxexecutiontime=1000000000",
    ];
    let mut rng = Rng::new(1, 0);
    for distribution in ["uniform", "zipfian", "latest", "sequential", "hotspot", "exponential"] {
        let pair = format!("requestdistribution={distribution}");
        let w = workload(&[], &[&largest[..], &[&pair]].concat()).unwrap();
        let inserted = Acknowledged::new(w.records);
        let key = w.choose_keys(&inserted).draw(inserted.last(), &mut rng);
        assert!(key < w.records, "{distribution}: {key}");
        assert!(w.shares().is_none(), "{distribution}: too many for memory");
    }
}

#[test]
fn proportions_need_not_sum_to_one() {
    let w = workload(&[], &["readproportion=0.2", "updateproportion=0.2"]).unwrap();
    assert!((w.mix[0] - 0.5).abs() < 1e-9);
}
