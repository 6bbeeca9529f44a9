package dev

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

const (
	callEvery   = 200 * time.Millisecond
	callTimeout = 2 * time.Second
	freshEvery  = 5 // every fifth call opens a new connection
)

// Counters are what a sample client saw, as kept in run/<name>.json.
type Counters struct {
	OK        uint64    `json:"ok"`
	Refused   uint64    `json:"refused"`
	LastOK    time.Time `json:"last_ok"`
	LastError string    `json:"last_error,omitempty"`
	At        time.Time `json:"at"`
}

// ReadCounters returns what a sample client last wrote.
func (f *Fleet) ReadCounters(workload string) (c Counters, err error) {
	b, err := os.ReadFile(filepath.Join(f.RunDir, workload+".json"))
	if err != nil {
		return c, err
	}
	return c, json.Unmarshal(b, &c)
}

// Serve is the sample server: plain HTTP, which knows nothing of the mesh.
func Serve(ctx context.Context, address, name string) error {
	lis, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	srv := &http.Server{
		ReadHeaderTimeout: callTimeout,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "hello from %s, asked as %s\n", name, r.Host)
		}),
	}
	stopped := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stopped()
	if err := srv.Serve(lis); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// WhoAmI asks the SPIFFE Workload API on a unix socket who this process is, with
// go-spiffe's own client, and returns the default identity.
func WhoAmI(ctx context.Context, socket string) (spiffeid.ID, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*askTimeout) // the node looks at the caller's program first
	defer cancel()
	got, err := workloadapi.FetchX509Context(ctx, workloadapi.WithAddr("unix://"+socket))
	if err != nil {
		return spiffeid.ID{}, err
	}
	svid := got.DefaultSVID()
	if _, _, err := x509svid.Verify(svid.Certificates, got.Bundles); err != nil {
		return spiffeid.ID{}, err
	}
	return svid.ID, nil
}

// Call is the sample client: plain HTTP to a service's name through the
// sidecar's listener, for ever, counting.
func Call(ctx context.Context, address, service, counters string) error {
	var c Counters
	client := &http.Client{Timeout: callTimeout, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", address)
		},
	}}
	tick := time.NewTicker(callEvery)
	defer tick.Stop()
	for n := 0; ; n++ {
		if n%freshEvery == 0 {
			client.CloseIdleConnections()
		}
		if err := callOnce(ctx, client, service); err != nil {
			c.Refused++
			c.LastError = err.Error()
		} else {
			c.OK++
			c.LastOK = time.Now()
		}
		c.At = time.Now()
		b, err := json.Marshal(c)
		if err != nil {
			return err
		}
		if err := writeFile(counters, b, 0o600); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func callOnce(ctx context.Context, client *http.Client, service string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+service+"/", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20)); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}
