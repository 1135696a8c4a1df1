//! The churn counters of one time slot as sums. Separate from the logs because a slot is sent as a whole.

use std::collections::BTreeMap;

use abi::Churn;
use bytes::Bytes;
use enrich::Attribution;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, metric::Data, number_data_point::Value,
};
use prost::Message;
use vocabulary::{Class, ClassCounts};

use crate::resource::{resource, scope};

/// One export request with the sums of a slot, and how many data points it holds; none if nothing happened. `cells` are cgroup ids with what
/// their processes did; cgroups of the same container are added up. Times are nanoseconds of the Unix epoch: the slot's start and end.
#[must_use]
pub fn metrics(
    cells: &[(u64, Churn)],
    attribute: impl Fn(u64) -> Attribution,
    start_unix_nanos: u64,
    end_unix_nanos: u64,
) -> Option<(Bytes, ClassCounts)> {
    let mut containers: BTreeMap<Attribution, Churn> = BTreeMap::new();
    for &(cgroup, churn) in cells {
        let sum = containers.entry(attribute(cgroup)).or_default();
        *sum = sum.plus([churn.forks, churn.execs, churn.exits]);
    }
    let mut points = 0;
    let mut resource_metrics = Vec::new();
    for (attribution, churn) in containers.iter().filter(|(_, churn)| churn.total() > 0) {
        let sums = sums(*churn, start_unix_nanos, end_unix_nanos);
        points += u32::try_from(sums.len()).unwrap_or(u32::MAX);
        resource_metrics.push(ResourceMetrics {
            resource: Some(resource(attribution)),
            scope_metrics: vec![ScopeMetrics { scope: Some(scope()), metrics: sums, ..ScopeMetrics::default() }],
            ..ResourceMetrics::default()
        });
    }
    let request = ExportMetricsServiceRequest { resource_metrics };
    (points > 0).then(|| (request.encode_to_vec().into(), ClassCounts::of(Class::Normal, points)))
}

/// One metric of one data point for each count that is not zero.
fn sums(churn: Churn, start_unix_nanos: u64, end_unix_nanos: u64) -> Vec<Metric> {
    let counts = [
        ("forebay.process.forks", "Processes that were created.", churn.forks),
        ("forebay.process.execs", "Programs that were executed.", churn.execs),
        ("forebay.process.exits", "Processes that ended, whatever the reason.", churn.exits),
    ];
    let sum = |count: u64| Sum {
        data_points: vec![NumberDataPoint {
            start_time_unix_nano: start_unix_nanos,
            time_unix_nano: end_unix_nanos,
            value: Some(Value::AsInt(i64::try_from(count).unwrap_or(i64::MAX))),
            ..NumberDataPoint::default()
        }],
        aggregation_temporality: AggregationTemporality::Delta.into(),
        is_monotonic: true,
    };
    let metric = |(name, description, count): (&str, &str, u64)| Metric {
        name: name.into(),
        description: description.into(),
        unit: "{process}".into(),
        data: Some(Data::Sum(sum(count))),
        ..Metric::default()
    };
    counts.into_iter().filter(|&(_, _, count)| count > 0).map(metric).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(cgroup: u64) -> Attribution {
        let container_id = (cgroup != 9).then(|| if cgroup < 3 { "a".into() } else { "b".into() });
        Attribution { container_id, node_name: Some("worker-1".into()), ..Attribution::default() }
    }

    fn churn(forks: u64, execs: u64, exits: u64) -> Churn {
        Churn { forks, execs, exits }
    }

    /// Container, metric, value, start, end of each data point.
    fn points(bytes: Bytes) -> Vec<(usize, String, i64, u64, u64)> {
        let request = ExportMetricsServiceRequest::decode(bytes).expect("it is well formed");
        let mut points = Vec::new();
        for (container, of) in request.resource_metrics.iter().enumerate() {
            assert_eq!(of.scope_metrics[0].scope.as_ref().expect("a scope").name, "forebay.kernel");
            for metric in &of.scope_metrics[0].metrics {
                let Some(Data::Sum(sum)) = &metric.data else { panic!("{} is no sum", metric.name) };
                assert_eq!((metric.unit.as_str(), sum.aggregation_temporality, sum.is_monotonic), ("{process}", 1, true));
                let [point] = sum.data_points.as_slice() else { panic!("{} has not one point", metric.name) };
                let Some(Value::AsInt(value)) = point.value else { panic!("{} is no integer", metric.name) };
                points.push((container, metric.name.clone(), value, point.start_time_unix_nano, point.time_unix_nano));
            }
        }
        points
    }

    #[test]
    fn cgroups_of_one_container_become_one_resource_with_their_sum() {
        let cells = [(1, churn(2, 1, 0)), (3, churn(0, 0, 5)), (2, churn(3, 0, 0)), (9, churn(1, 0, 0))];
        let (bytes, counts) = metrics(&cells, container, 100, 200).expect("something happened");
        let points = points(bytes);
        let point = |container, name: &str, value| (container, name.to_string(), value, 100, 200);
        assert_eq!(
            points,
            [
                point(0, "forebay.process.forks", 1),
                point(1, "forebay.process.forks", 5),
                point(1, "forebay.process.execs", 1),
                point(2, "forebay.process.exits", 5),
            ]
        );
        assert_eq!(counts, ClassCounts::of(Class::Normal, 4));
    }

    #[test]
    fn a_quiet_slot_is_no_request() {
        assert_eq!(metrics(&[], container, 100, 200), None);
        assert_eq!(metrics(&[(1, churn(0, 0, 0))], container, 100, 200), None);
    }
}
