// The calls of a session through Java's own HttpClient, which offers h2c with every plain HTTP
// request.
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

public class Walk {
    private static final HttpClient CLIENT = HttpClient.newHttpClient();

    public static void main(String[] args) throws Exception {
        String base = args[0] + "/v1/" + args[1] + "/";
        String session = args[2];
        post(base, session, "claim", "{\"task\": \"j-1\"}");
        post(base, session, "claim", "{\"task\": \"j-2\"}");
        post(base, session, "heartbeat", "{\"task\": \"j-1\", \"fence\": 1}");
        post(base, session, "heartbeat", "{\"task\": \"j-1\", \"state\": \"parked\", \"note\": \"q?\"}");
        post(base, session, "release", "{\"task\": \"j-1\"}");
    }

    private static void post(String base, String session, String act, String body) throws Exception {
        HttpRequest request = HttpRequest.newBuilder(URI.create(base + act))
                .header("Dibs-Session", session)
                .header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(body))
                .build();
        HttpResponse<String> answer = CLIENT.send(request, HttpResponse.BodyHandlers.ofString());
        System.out.println(act + " " + answer.statusCode() + " " + answer.body());
    }
}
