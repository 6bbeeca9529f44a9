// Package collector holds nothing but a test: the trail of a node reaches the OTLP receiver of the
// OpenTelemetry Collector, built from its module.
package collector
