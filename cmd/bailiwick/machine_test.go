package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"

	"connectrpc.com/connect"
	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/bailiwick-mesh/bailiwick/attest/tpm/maker"
)

// cmdMachine starts a software TPM. Where it is goes into variables.
func cmdMachine(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 1, "machine NAME")
	ca, err := maker.OpenCA(ts.MkAbs("maker"))
	ts.Check(err)
	soft, err := ca.Manufacture(context.Background(), ts.MkAbs(filepath.Join("machines", args[0])))
	ts.Check(err)
	ts.Defer(func() { ts.Check(soft.Stop()) })
	ts.Setenv(args[0]+"_TPM", soft.Path())
	ts.Setenv(args[0]+"_BOOTLOG", soft.BootLog())
}

// cmdExpand puts variables into files.
func cmdExpand(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 1, "expand FILE...")
	for _, name := range args {
		text := os.Expand(ts.ReadFile(name), ts.Getenv)
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o600))
	}
}

// cmdProgram makes a sample workload of this binary.
func cmdProgram(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 1, "program NAME...")
	self, err := os.Executable()
	ts.Check(err)
	for _, name := range args {
		path := ts.MkAbs(name)
		if os.Link(self, path) == nil {
			continue
		}
		from, err := os.Open(self)
		ts.Check(err)
		to, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o700)
		ts.Check(err)
		_, err = io.Copy(to, from)
		ts.Check(errors.Join(err, to.Close(), from.Close()))
	}
}

// cmdSpireServer is the part of the stock command that rotates a root. The stock one
// itself is used in test/interop.
func cmdSpireServer(ts *testscript.TestScript, neg bool, args []string) {
	steps := map[string]string{"prepare": "PrepareX509Authority", "activate": "ActivateX509Authority", "taint": "TaintX509Authority", "revoke": "RevokeX509Authority"}
	const usage = "spire-server localauthority x509 prepare|activate|taint|revoke [-authorityID ID] -socketPath PATH"
	if len(args) < 5 || !slices.Equal(args[:2], []string{"localauthority", "x509"}) || steps[args[2]] == "" {
		ts.Fatalf("usage: %s", usage)
	}
	flags := map[string]string{}
	for i := 3; i+1 < len(args); i += 2 {
		flags[args[i]] = args[i+1]
	}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	client := &http.Client{Timeout: patience, Transport: &http.Transport{
		Protocols: protocols,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", ts.MkAbs(flags["-socketPath"]))
		},
	}}
	// The request has one field, authority_id = 1, as StringValue has value = 1.
	call := connect.NewClient[wrapperspb.StringValue, emptypb.Empty](client,
		"http://issuer/spire.api.server.localauthority.v1.LocalAuthority/"+steps[args[2]], connect.WithGRPC())
	_, err := call.CallUnary(context.Background(), connect.NewRequest(wrapperspb.String(flags["-authorityID"])))
	switch {
	case err != nil && !neg:
		ts.Fatalf("%s: %v", args[2], err)
	case err == nil && neg:
		ts.Fatalf("%s: it was not refused", args[2])
	case err != nil:
		_, _ = io.WriteString(ts.Stdout(), err.Error()+"\n")
	}
}
