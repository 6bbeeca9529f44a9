package export

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bailiwick-mesh/bailiwick/policy/decision"
)

// The messages of OTLP logs, as far as a decision needs them, in their JSON mapping
// (opentelemetry-proto, logs.proto; OTLP specification, JSON Protobuf Encoding): names in
// lowerCamelCase, 64-bit numbers as texts, IDs in hex.
type (
	otlpRequest struct {
		ResourceLogs []otlpResourceLogs `json:"resourceLogs"`
	}
	otlpResourceLogs struct {
		Resource  otlpResource    `json:"resource"`
		ScopeLogs []otlpScopeLogs `json:"scopeLogs"`
	}
	otlpResource struct {
		Attributes []otlpAttribute `json:"attributes"`
	}
	otlpScopeLogs struct {
		Scope      otlpScope    `json:"scope"`
		LogRecords []otlpRecord `json:"logRecords"`
	}
	otlpScope struct {
		Name string `json:"name"`
	}
	otlpRecord struct {
		Time           string          `json:"timeUnixNano"`
		Observed       string          `json:"observedTimeUnixNano"`
		SeverityNumber int             `json:"severityNumber"`
		SeverityText   string          `json:"severityText"`
		EventName      string          `json:"eventName"`
		Body           otlpValue       `json:"body"`
		Attributes     []otlpAttribute `json:"attributes"`
		TraceID        string          `json:"traceId,omitempty"`
	}
	otlpAttribute struct {
		Key   string    `json:"key"`
		Value otlpValue `json:"value"`
	}
	otlpValue struct {
		String *string `json:"stringValue,omitempty"`
		Bool   *bool   `json:"boolValue,omitempty"`
		Int    string  `json:"intValue,omitempty"`
	}
)

const (
	severityInfo = 9  // SEVERITY_NUMBER_INFO
	severityWarn = 13 // SEVERITY_NUMBER_WARN
)

func text(key, value string) otlpAttribute {
	return otlpAttribute{Key: key, Value: otlpValue{String: &value}}
}

// otlpOf is one request. Events of one node in a row share a resource.
func otlpOf(batch []decision.Event) ([]byte, error) {
	var out otlpRequest
	node := ""
	for i, e := range batch {
		if i == 0 || e.Labels["id"] != node {
			node = e.Labels["id"]
			out.ResourceLogs = append(out.ResourceLogs, resourceLogs(node, e.Labels["version"], "github.com/bailiwick-mesh/bailiwick/policy/decision"))
		}
		record, err := otlpRecordOf(e)
		if err != nil {
			return nil, err
		}
		scope := &out.ResourceLogs[len(out.ResourceLogs)-1].ScopeLogs[0]
		scope.LogRecords = append(scope.LogRecords, record)
	}
	return json.Marshal(out)
}

func otlpRecordOf(e decision.Event) (otlpRecord, error) {
	body, err := json.Marshal(ocsfOf(e))
	if err != nil {
		return otlpRecord{}, err
	}
	ocsf, allow, at := string(body), e.Result.Allow, strconv.FormatInt(e.Timestamp.UnixNano(), 10)
	out := otlpRecord{
		Time: at, Observed: at, SeverityNumber: severityInfo, SeverityText: "INFO", EventName: "bailiwick.decision",
		Body: otlpValue{String: &ocsf}, TraceID: cmp.Or(e.TraceID, e.DecisionID),
		Attributes: []otlpAttribute{
			text("bailiwick.decision.id", e.DecisionID), text("bailiwick.decision.kind", string(e.Kind())),
			{Key: "bailiwick.decision.allow", Value: otlpValue{Bool: &allow}},
			text("bailiwick.decision.level", e.Result.Level), text("bailiwick.decision.rule", e.Result.Rule),
			text("bailiwick.policy.revision", e.Result.Revision), text("bailiwick.source", e.RequestedBy), text("bailiwick.target", e.Result.Target),
		},
	}
	if !allow {
		out.SeverityNumber, out.SeverityText = severityWarn, "WARN"
	}
	return out, nil
}

// Log is a record that is no decision: an event of the node's own.
type Log struct {
	At      time.Time
	Warn    bool
	Name    string            // of the event
	Body    string            // JSON
	Texts   map[string]string // attributes
	Numbers map[string]uint64 // attributes
}

// Logs is one OTLP request for records of a node, whose program has a version; scope says what wrote them.
func Logs(node, version, scope string, logs []Log) ([]byte, error) {
	records := make([]otlpRecord, len(logs))
	for i, l := range logs {
		at := strconv.FormatInt(l.At.UnixNano(), 10)
		records[i] = otlpRecord{Time: at, Observed: at, SeverityNumber: severityInfo, SeverityText: "INFO", EventName: l.Name, Body: otlpValue{String: &l.Body}}
		if l.Warn {
			records[i].SeverityNumber, records[i].SeverityText = severityWarn, "WARN"
		}
		for _, k := range slices.Sorted(maps.Keys(l.Texts)) {
			records[i].Attributes = append(records[i].Attributes, text(k, l.Texts[k]))
		}
		for _, k := range slices.Sorted(maps.Keys(l.Numbers)) {
			records[i].Attributes = append(records[i].Attributes, otlpAttribute{k, otlpValue{Int: strconv.FormatUint(l.Numbers[k], 10)}})
		}
	}
	r := resourceLogs(node, version, scope)
	r.ScopeLogs[0].LogRecords = records
	return json.Marshal(otlpRequest{[]otlpResourceLogs{r}})
}

func resourceLogs(node, version, scope string) otlpResourceLogs {
	return otlpResourceLogs{
		Resource:  otlpResource{Attributes: []otlpAttribute{text("service.name", "bailiwick"), text("service.instance.id", node), text("service.version", version)}},
		ScopeLogs: []otlpScopeLogs{{Scope: otlpScope{Name: scope}}},
	}
}

var (
	// ErrCollector means that a collector refused a request, wholly or in part. Nothing is sent again here:
	// which records it took is not known.
	ErrCollector = errors.New("the collector did not take the logs")

	// ErrRefused means that it will refuse the same request again (OTLP specification, Failures): it could not
	// read it, or it took a part and has no use for the rest. It comes with ErrCollector.
	ErrRefused = errors.New("sending them again is of no use")
)

// maxAnswer is how much of a collector's answer is read, in bytes.
const maxAnswer = 64 << 10

// Send posts one OTLP request to the logs endpoint of a collector (OTLP/HTTP, binary protobuf
// aside). Errors wrap ErrCollector, with ErrRefused where the same request fails again, or are the client's.
func Send(ctx context.Context, client *http.Client, url string, request []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(request))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		err := fmt.Errorf("%w: %s: %s: %.200s", ErrCollector, url, resp.Status, bytes.TrimSpace(answer))
		if resp.StatusCode == http.StatusBadRequest || resp.StatusCode == http.StatusRequestEntityTooLarge {
			err = fmt.Errorf("%w: %w", err, ErrRefused)
		}
		return err
	}
	var partial struct {
		PartialSuccess struct {
			Rejected json.RawMessage `json:"rejectedLogRecords"`
			Message  string          `json:"errorMessage"`
		} `json:"partialSuccess"`
	}
	if json.Unmarshal(answer, &partial) == nil {
		if n := strings.Trim(string(partial.PartialSuccess.Rejected), `"`); n != "" && n != "0" && n != "null" { // 64-bit numbers come as texts too
			return fmt.Errorf("%w: %s: %s records refused: %.200s: %w", ErrCollector, url, n, partial.PartialSuccess.Message, ErrRefused)
		}
	}
	return nil
}
