// Package export writes recorded decisions in the formats of other programs.
//
//	OPA   the events as they were recorded: a line of JSON each, OPA's decision-log format
//	OCSF  an event of class API Activity (6003) of the Open Cybersecurity Schema Framework, 1.6,
//	      with profile security_control: a line of JSON each
//	OTLP  logs of OpenTelemetry, as OTLP/JSON: a line holds a request of at most BatchSize records.
//	      The body of a record is the OCSF event, its trace ID the decision's
//	CloudEvents  an event of CloudEvents 1.0 in its JSON format, a line each: its data is the OPA event
//
// The tests of package schema hold OCSF and CloudEvents against their schemas; exports/README there says where
// they are from.
//
// What masking took out of a decision is in none of them. Send posts an OTLP request to a
// collector; nothing else here opens a socket, and nothing is retried.
package export

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"

	"github.com/bailiwick-mesh/bailiwick/policy/decision"
)

// Format is one of Formats.
type Format string

// The formats.
const (
	OPA         Format = "opa"
	OCSF        Format = "ocsf"
	OTLP        Format = "otlp"
	CloudEvents Format = "cloudevents"
)

// Formats lists every format.
var Formats = []Format{OPA, OCSF, OTLP, CloudEvents}

// ErrFormat means that a format is none of Formats.
var ErrFormat = errors.New("not a format decisions are exported in")

// BatchSize is how many records one OTLP request holds at most.
const BatchSize = 256

// Lines encodes events. Errors are those of the events, or ErrFormat.
func Lines(events iter.Seq2[decision.Event, error], f Format) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		if !slices.Contains(Formats, f) {
			yield(nil, fmt.Errorf("%w: %q, want one of %v", ErrFormat, f, Formats))
			return
		}
		var batch []decision.Event
		send := func() bool {
			b, err := encode(f, batch)
			batch = batch[:0]
			return yield(b, err) && err == nil
		}
		most := 1
		if f == OTLP {
			most = BatchSize
		}
		for e, err := range events {
			if err != nil {
				yield(nil, err)
				return
			}
			if batch = append(batch, e); len(batch) == most && !send() {
				return
			}
		}
		if len(batch) > 0 {
			send()
		}
	}
}

func encode(f Format, batch []decision.Event) ([]byte, error) {
	switch f {
	case OCSF:
		return json.Marshal(ocsfOf(batch[0]))
	case OTLP:
		return otlpOf(batch)
	case CloudEvents:
		return json.Marshal(cloudEventOf(batch[0]))
	}
	return json.Marshal(batch[0])
}

// Write writes lines to w and returns how many.
func Write(w io.Writer, lines iter.Seq2[[]byte, error]) (n int, err error) {
	for line, err := range lines {
		if err != nil {
			return n, err
		}
		if _, err := w.Write(append(line, '\n')); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}
