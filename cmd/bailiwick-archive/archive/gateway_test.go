package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

const (
	testAccess = "archivist"
	testSecret = "not-to-be-seen-anywhere"
)

// gateway is a real S3 server, versitygw, as a process of its own.
type gateway struct {
	endpoint string
	client   *s3.Client
}

// one serves all tests; each has buckets of its own.
var one gateway

func TestMain(m *testing.M) {
	code, err := serve(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func serve(m *testing.M) (int, error) {
	program, err := exec.LookPath("versitygw")
	if err != nil {
		return 0, fmt.Errorf("%w: run these tests with make archive, which builds it", err)
	}
	dir, err := os.MkdirTemp("", "versitygw.")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	for _, d := range []string{"data", "versions", "notes"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			return 0, err
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	address := l.Addr().String()
	_ = l.Close()
	var said bytes.Buffer
	cmd := exec.Command(program, "--port", address, "--access", testAccess, "--secret", testSecret,
		"posix", "--versioning-dir", filepath.Join(dir, "versions"), "--sidecar", filepath.Join(dir, "notes"), filepath.Join(dir, "data"))
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	one.endpoint = "http://" + address
	one.client = s3.NewFromConfig(testConfig(testSecret), func(o *s3.Options) { o.BaseEndpoint, o.UsePathStyle = &one.endpoint, true })
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		if c, err := net.Dial("tcp", address); err == nil {
			_ = c.Close()
			return m.Run(), nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return 0, errors.New("versitygw does not start: " + said.String())
		}
	}
}

func testConfig(secret string) aws.Config {
	return aws.Config{Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider(testAccess, secret, "")}
}

// bucket makes a bucket for one test, with object lock or without.
func bucket(t *testing.T, name string, locked bool) {
	t.Helper()
	if _, err := one.client.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &name, ObjectLockEnabledForBucket: &locked}); err != nil {
		t.Fatal(err)
	}
}

// opened makes a bucket with object lock and opens it.
func opened(t *testing.T, name string) *Bucket {
	t.Helper()
	bucket(t, name, true)
	b, err := OpenBucket(t.Context(), testConfig(testSecret), one.endpoint, name, "site/")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// countdown ends everything after so many requests, in the middle of the next.
type countdown struct {
	to   s3.HTTPClient
	left *int
	end  func()
}

func (c countdown) Do(r *http.Request) (*http.Response, error) {
	countdowns.Lock()
	*c.left--
	over := *c.left <= 0
	countdowns.Unlock()
	if over {
		c.end()
	}
	return c.to.Do(r)
}

var countdowns sync.Mutex
