package main

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// cmdCollector starts an OTLP receiver at an address, until the script ends. It writes a line for each log
// record to a file: the name of its event and the origin and index of its leaf.
func cmdCollector(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 3, "collector ADDRESS TOKEN FILE")
	out, err := os.Create(ts.MkAbs(args[2]))
	ts.Check(err)
	l, err := net.Listen("tcp", args[0])
	ts.Check(err)
	srv := &http.Server{ReadTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/logs" || r.Header.Get("Content-Type") != "application/json" || r.Header.Get("Authorization") != "Bearer "+args[1] {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		var request struct {
			ResourceLogs []struct {
				ScopeLogs []struct {
					LogRecords []struct {
						EventName  string
						Attributes []struct {
							Key   string
							Value struct{ StringValue, IntValue string }
						}
					}
				}
			}
		}
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 20<<20)).Decode(&request); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		for _, resource := range request.ResourceLogs {
			for _, scope := range resource.ScopeLogs {
				for _, record := range scope.LogRecords {
					line := record.EventName
					for _, a := range record.Attributes {
						if a.Key == "bailiwick.trail.origin" || a.Key == "bailiwick.trail.index" || a.Key == "bailiwick.decision.rule" {
							line += " " + a.Value.StringValue + a.Value.IntValue
						}
					}
					_, _ = out.WriteString(line + "\n")
				}
			}
		}
		_, _ = w.Write([]byte("{}"))
	})}
	go func() { _ = srv.Serve(l) }()
	ts.Defer(func() { _, _ = srv.Close(), out.Close() })
}
