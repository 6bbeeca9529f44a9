package interop

import (
	"context"
	"testing"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// header is what every call of the Workload API must carry, once.
const header = "workload.spiffe.io"

// workloadQuestions go to a Workload API as they are, with no SDK in between.
var workloadQuestions = []struct {
	name string
	meta []string
	ask  func(ctx context.Context, c workload.SpiffeWorkloadAPIClient) error
}{
	{"X.509-SVID", []string{header, "true"}, askSVID},
	{"X.509-SVID, no header", nil, askSVID},
	{"X.509-SVID, header says something else", []string{header, "yes"}, askSVID},
	{"X.509-SVID, header twice", []string{header, "true", header, "true"}, askSVID},
	{"bundles", []string{header, "true"}, askBundles},
	{"bundles, no header", nil, askBundles},
	{"JWT-SVID, no header", nil, askJWT(&workload.JWTSVIDRequest{Audience: []string{audience}})},
	{"JWT-SVID", []string{header, "true"}, askJWT(&workload.JWTSVIDRequest{Audience: []string{audience}})},
	{"JWT-SVID, no audience", []string{header, "true"}, askJWT(&workload.JWTSVIDRequest{})},
	{"JWT-SVID, no SPIFFE ID", []string{header, "true"}, askJWT(&workload.JWTSVIDRequest{Audience: []string{audience}, SpiffeId: "https://x"})},
	{"JWT-SVID of another workload", []string{header, "true"}, askJWT(&workload.JWTSVIDRequest{Audience: []string{audience}, SpiffeId: td.IDString() + "/workload/other"})},
	{"JWT bundles", []string{header, "true"}, askJWTBundles},
	{"JWT bundles, no header", nil, askJWTBundles},
	{"validate, no header", nil, askValid(&workload.ValidateJWTSVIDRequest{Audience: audience, Svid: "x"})},
	{"validate, no JWT", []string{header, "true"}, askValid(&workload.ValidateJWTSVIDRequest{Audience: audience, Svid: "x"})},
	{"validate, no audience", []string{header, "true"}, askValid(&workload.ValidateJWTSVIDRequest{Svid: "x"})},
	{"validate, no token", []string{header, "true"}, askValid(&workload.ValidateJWTSVIDRequest{Audience: audience})},
	{"WIT-SVID", []string{header, "true"}, func(ctx context.Context, c workload.SpiffeWorkloadAPIClient) error {
		s, err := c.FetchWITSVID(ctx, &workload.WITSVIDRequest{})
		if err == nil {
			_, err = s.Recv()
		}
		return err
	}},
}

func askJWT(req *workload.JWTSVIDRequest) func(context.Context, workload.SpiffeWorkloadAPIClient) error {
	return func(ctx context.Context, c workload.SpiffeWorkloadAPIClient) error {
		_, err := c.FetchJWTSVID(ctx, req)
		return err
	}
}

func askValid(req *workload.ValidateJWTSVIDRequest) func(context.Context, workload.SpiffeWorkloadAPIClient) error {
	return func(ctx context.Context, c workload.SpiffeWorkloadAPIClient) error {
		_, err := c.ValidateJWTSVID(ctx, req)
		return err
	}
}

func askJWTBundles(ctx context.Context, c workload.SpiffeWorkloadAPIClient) error {
	s, err := c.FetchJWTBundles(ctx, &workload.JWTBundlesRequest{})
	if err == nil {
		_, err = s.Recv()
	}
	return err
}

func askSVID(ctx context.Context, c workload.SpiffeWorkloadAPIClient) error {
	s, err := c.FetchX509SVID(ctx, &workload.X509SVIDRequest{})
	if err == nil {
		_, err = s.Recv()
	}
	return err
}

func askBundles(ctx context.Context, c workload.SpiffeWorkloadAPIClient) error {
	s, err := c.FetchX509Bundles(ctx, &workload.X509BundlesRequest{})
	if err == nil {
		_, err = s.Recv()
	}
	return err
}

// sameWorkloadAPI asks ours and a stock agent's the same.
func sameWorkloadAPI(t *testing.T, ours, stock string) {
	t.Helper()
	us, them := workload.NewSpiffeWorkloadAPIClient(unixConn(t, ours)), workload.NewSpiffeWorkloadAPIClient(unixConn(t, stock))
	for _, q := range workloadQuestions {
		ask := func(c workload.SpiffeWorkloadAPIClient) string {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			return answer(q.ask(metadata.AppendToOutgoingContext(ctx, q.meta...), c))
		}
		if got, want := ask(us), ask(them); got != want {
			t.Errorf("Workload API, %s: ours says %s, spire-agent's %s", q.name, got, want)
		}
	}
	crossValidate(t, us, them)
	crossValidate(t, them, us)
}

// crossValidate gets a token from one Workload API and has the other one look at it:
// both say the same of it, claim by claim.
func crossValidate(t *testing.T, from, by workload.SpiffeWorkloadAPIClient) {
	t.Helper()
	ctx := metadata.AppendToOutgoingContext(t.Context(), header, "true")
	got, err := from.FetchJWTSVID(ctx, &workload.JWTSVIDRequest{Audience: []string{audience, "another"}})
	must(t, err)
	for _, s := range got.GetSvids() {
		req := &workload.ValidateJWTSVIDRequest{Audience: audience, Svid: s.GetSvid()}
		theirs, err := by.ValidateJWTSVID(ctx, req)
		must(t, err)
		own, err := from.ValidateJWTSVID(ctx, req)
		must(t, err)
		if !proto.Equal(theirs, own) || own.GetSpiffeId() != s.GetSpiffeId() {
			t.Errorf("token of %s: one says %v, the other %v", s.GetSpiffeId(), own, theirs)
		}
	}
}

func unixConn(t *testing.T, socket string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}
