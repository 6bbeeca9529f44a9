package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/authz/authztest"
)

// cmdExtAuthz asks as Envoy does until the answer is yes (! no, of a node that can decide) and prints the decision's ID; -
// is nothing.
func cmdExtAuthz(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 5 {
		ts.Fatalf("usage: [!] ext-authz SOCKET SERVICE PRINCIPAL METHOD PATH")
	}
	for i, a := range args {
		if a == "-" {
			args[i] = ""
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var id string
	poll(ts, func() string { // a node that has just begun knows its region a moment later
		allowed, status, decision, err := authztest.Ask(ctx, "unix:"+ts.MkAbs(args[0]), authztest.Check{
			Service: args[1], Principal: args[2], Method: args[3], Path: args[4],
			Headers: map[string]string{"x-forwarded-client-cert": "URI=spiffe://east.dev.example/workload/shop"},
		})
		ts.Check(err)
		if id = decision; allowed == neg || status == http.StatusServiceUnavailable {
			return fmt.Sprintf("allowed is %v, status %d, decision %s", allowed, status, decision)
		}
		return ""
	})
	fmt.Fprintln(ts.Stdout(), id)
}

// cmdAuthZEN posts a file to the Authorization API and prints the answer.
func cmdAuthZEN(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 2, "authzen URL FILE")
	client := &http.Client{Timeout: 10 * time.Second}
	r, err := client.Post(args[0], "application/json", strings.NewReader(ts.ReadFile(args[1])))
	ts.Check(err)
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	ts.Check(err)
	fmt.Fprintf(ts.Stdout(), "%d %s", r.StatusCode, b)
}
