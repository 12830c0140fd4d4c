// Informers of client-go, watched while they keep their caches.
//
// Started with -kubeconfig FILE and -report SOCKET, it keeps its caches in the way programs do (shared informers, a
// dynamic one, one with a selector) and writes every list, every event as it came from the server, and what handlers
// were told, to the socket: one JSON object a line. Each line it reads there is answered with the caches' content.
// Whether a cache begins with a list or with a stream of initial events is client-go's WatchListClient feature
// (KUBE_FEATURE_WatchListClient).
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"log"
	"net"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

var httpRoutes = schema.GroupVersionResource{Group: "gateway.networking.k8s.io", Version: "v1", Resource: "httproutes"}

// A line of the report. See tests/e2e/tests/informers for what each operation means.
type line struct {
	Informer string            `json:"informer"`
	Op       string            `json:"op"`
	Key      string            `json:"key,omitempty"`
	Version  string            `json:"version,omitempty"`
	Text     string            `json:"text,omitempty"`
	Items    map[string]string `json:"items,omitempty"`
}

type reporter struct {
	mutex   sync.Mutex
	encoder *json.Encoder
}

func (r *reporter) tell(l line) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if err := r.encoder.Encode(l); err != nil {
		log.Fatalf("nobody reads the report: %v", err)
	}
}

func keyOf(object runtime.Object) (string, string) {
	accessor, err := meta.Accessor(object)
	if err != nil {
		log.Fatalf("an event's object has no metadata: %v", err)
	}
	return accessor.GetNamespace() + "/" + accessor.GetName(), accessor.GetResourceVersion()
}

// One informer, with what it has been told.
type observed struct {
	name     string
	report   *reporter
	informer cache.SharedIndexInformer
	// What handlers were told, as they would keep it.
	mutex  sync.Mutex
	mirror map[string]string
}

// Wraps what lists and watches, so that each answer is told as it comes.
func (o *observed) recording(inner *cache.ListWatch) *cache.ListWatch {
	list := func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		result, err := inner.ListWithContextFunc(ctx, options)
		if err != nil {
			o.report.tell(line{Informer: o.name, Op: "failed", Text: err.Error()})
			return nil, err
		}
		if options.Continue == "" {
			o.report.tell(line{Informer: o.name, Op: "begin"})
		}
		items, err := meta.ExtractList(result)
		if err != nil {
			return nil, err
		}
		for _, item := range items {
			key, version := keyOf(item)
			o.report.tell(line{Informer: o.name, Op: "item", Key: key, Version: version})
		}
		accessor, err := meta.ListAccessor(result)
		if err != nil {
			return nil, err
		}
		if accessor.GetContinue() == "" {
			o.report.tell(line{Informer: o.name, Op: "listed", Version: accessor.GetResourceVersion()})
		}
		return result, nil
	}
	start := func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
		stream, err := inner.WatchFuncWithContext(ctx, options)
		if err != nil {
			o.report.tell(line{Informer: o.name, Op: "failed", Text: err.Error()})
			return nil, err
		}
		initial := options.SendInitialEvents != nil && *options.SendInitialEvents
		if initial {
			o.report.tell(line{Informer: o.name, Op: "begin"})
		} else {
			o.report.tell(line{Informer: o.name, Op: "watch", Version: options.ResourceVersion})
		}
		return watch.Filter(stream, func(event watch.Event) (watch.Event, bool) {
			initial = o.event(event, initial)
			return event, true
		}), nil
	}
	return &cache.ListWatch{ListWithContextFunc: list, WatchFuncWithContext: start}
}

// Tells of an event; whether what follows still belongs to the initial ones.
func (o *observed) event(event watch.Event, initial bool) bool {
	if event.Type == watch.Error {
		text := "an error without a status"
		if status, ok := event.Object.(*metav1.Status); ok {
			text = string(status.Reason) + ": " + status.Message
		}
		o.report.tell(line{Informer: o.name, Op: "error", Text: text})
		return initial
	}
	key, version := keyOf(event.Object)
	told := line{Informer: o.name, Key: key, Version: version}
	switch {
	case event.Type == watch.Bookmark:
		accessor, _ := meta.Accessor(event.Object)
		told.Op, told.Key = "bookmark", ""
		if initial && accessor.GetAnnotations()[metav1.InitialEventsAnnotationKey] == "true" {
			told.Op, initial = "listed", false
		}
	case event.Type == watch.Added && initial:
		told.Op = "item"
	case event.Type == watch.Added:
		told.Op = "added"
	case event.Type == watch.Modified:
		told.Op = "modified"
	case event.Type == watch.Deleted:
		told.Op = "deleted"
	}
	o.report.tell(told)
	return initial
}

func (o *observed) fault(text, key string) {
	o.report.tell(line{Informer: o.name, Op: "fault", Key: key, Text: text})
}

// What a program's handlers are told must make sense by itself.
func (o *observed) handlers() cache.ResourceEventHandler {
	set := func(object any, known bool, what string) {
		o.mutex.Lock()
		defer o.mutex.Unlock()
		key, version := keyOf(object.(runtime.Object))
		if _, there := o.mirror[key]; there != known {
			o.fault("a handler is told of "+what+" in the wrong state", key)
		}
		o.mirror[key] = version
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { set(object, false, "an addition") },
		UpdateFunc: func(_, object any) { set(object, true, "a change") },
		DeleteFunc: func(object any) {
			o.mutex.Lock()
			defer o.mutex.Unlock()
			key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(object)
			if _, there := o.mirror[key]; err != nil || !there {
				o.fault("a handler is told twice of a deletion", key)
			}
			delete(o.mirror, key)
		},
	}
}

// Tells what the cache holds, and where its handlers know something else.
func (o *observed) tellCache() {
	items := map[string]string{}
	for _, object := range o.informer.GetStore().List() {
		key, version := keyOf(object.(runtime.Object))
		items[key] = version
	}
	o.mutex.Lock()
	mirror := map[string]string{}
	for key, version := range o.mirror {
		mirror[key] = version
	}
	o.mutex.Unlock()
	o.report.tell(line{Informer: o.name, Op: "handled", Items: mirror})
	o.report.tell(line{Informer: o.name, Op: "cache", Items: items})
}

func main() {
	kubeconfig := flag.String("kubeconfig", "", "the context, as leno user create prints it")
	socket := flag.String("report", "", "the socket for the report")
	name := flag.String("name", "client-go", "what the informers' names begin with")
	flag.Parse()
	connection, err := net.Dial("unix", *socket)
	if err != nil {
		log.Fatalf("the report's socket: %v", err)
	}
	report := &reporter{encoder: json.NewEncoder(connection)}
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		log.Fatalf("the context: %v", err)
	}
	typed, err := kubernetes.NewForConfig(config)
	if err != nil {
		log.Fatal(err)
	}
	untyped, err := dynamic.NewForConfig(config)
	if err != nil {
		log.Fatal(err)
	}

	services := func(selector string) *cache.ListWatch {
		return &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
				options.LabelSelector = selector
				return typed.CoreV1().Services("").List(ctx, options)
			},
			WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
				options.LabelSelector = selector
				return typed.CoreV1().Services("").Watch(ctx, options)
			},
		}
	}
	routes := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			return untyped.Resource(httpRoutes).List(ctx, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			return untyped.Resource(httpRoutes).Watch(ctx, options)
		},
	}

	observe := func(suffix string, listWatch *cache.ListWatch, make func(*cache.ListWatch) cache.SharedIndexInformer) *observed {
		o := &observed{name: *name + "/" + suffix, report: report, mirror: map[string]string{}}
		o.informer = make(o.recording(listWatch))
		if _, err := o.informer.AddEventHandler(o.handlers()); err != nil {
			log.Fatal(err)
		}
		return o
	}
	// The first as a program asks the shared factory for it; a second by selector would replace it there.
	factory := informers.NewSharedInformerFactory(typed, time.Minute)
	shared := func(listWatch *cache.ListWatch) cache.SharedIndexInformer {
		return factory.InformerFor(&corev1.Service{}, func(_ kubernetes.Interface, resync time.Duration) cache.SharedIndexInformer {
			return cache.NewSharedIndexInformer(listWatch, &corev1.Service{}, resync, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
		})
	}
	alone := func(example runtime.Object) func(*cache.ListWatch) cache.SharedIndexInformer {
		return func(listWatch *cache.ListWatch) cache.SharedIndexInformer {
			return cache.NewSharedIndexInformer(listWatch, example, 0, cache.Indexers{})
		}
	}
	all := []*observed{
		observe("services", services(""), shared),
		observe("services,shade=dark", services("shade=dark"), alone(&corev1.Service{})),
		observe("httproutes", routes, alone(&unstructured.Unstructured{})),
	}
	stop := make(chan struct{})
	factory.Start(stop)
	for _, o := range all[1:] {
		go o.informer.Run(stop)
	}
	commands := bufio.NewScanner(connection)
	for commands.Scan() {
		for _, o := range all {
			o.tellCache()
		}
	}
}
