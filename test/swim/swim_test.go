package swim

import (
	"encoding/json"
	"flag"
	"math"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

var (
	nodes    = flag.Int("nodes", 40, "nodes of TestBroadcast; 1000 take half an hour")
	messages = flag.Int("messages", 20, "messages of TestBroadcast")
	seed     = flag.Uint64("seed", 1, "of latencies, origins and starts; memberlist has dice of its own")
	out      = flag.String("json", "", "file for the result of the real code")
)

// The real code, and the model within a fifth of it.
func TestBroadcast(t *testing.T) {
	var real Result
	var err error
	synctest.Test(t, func(*testing.T) { real, err = Run(*nodes, *messages, *seed) })
	if err != nil {
		t.Fatal(err)
	}
	model := Model(*nodes, 100, *seed)
	t.Logf("real  %+v", real)
	t.Logf("model %+v", model)
	for what, v := range map[string][2]float64{
		"p50": {float64(model.P50), float64(real.P50)}, "p99": {float64(model.P99), float64(real.P99)},
		"tail": {float64(model.Tail), float64(real.Tail)}, "copies": {model.Copies, real.Copies}, "bytes": {model.Bytes, real.Bytes},
	} {
		if ratio := v[0] / v[1]; ratio < 0.8 || ratio > 1.2 {
			t.Errorf("%s: the model is %.2f of the real code", what, ratio)
		}
	}
	if *out != "" {
		b, err := json.Marshal(real)
		if err == nil {
			err = os.WriteFile(*out, b, 0o644)
		}
		if err != nil {
			t.Error(err)
		}
	}
}

func TestSummarize(t *testing.T) {
	times := make([]time.Duration, 100)
	for i := range times {
		times[i] = time.Duration(i + 1)
	}
	res := summarize(101, [][]time.Duration{times, times[:50], times[:70]})
	if res.P50 != 37 || res.P99 != 98 || res.Last != 100 || res.Tail != 70 || math.Abs(res.Missed-80./300) > 1e-9 {
		t.Errorf("%+v", res)
	}
}
