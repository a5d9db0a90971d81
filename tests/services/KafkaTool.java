import java.io.*;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.*;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.*;

/**
 * Kafka's own clients, for tests and examples.
 *
 * <pre>
 * read SERVERS TOPIC                                the committed messages, one a line: partition, offset, key and value (base64, - for null)
 * write SERVERS TOPIC                               each line of standard input as a message
 * create SERVERS TOPIC PARTITIONS [NAME=VALUE ...]  a topic with such settings
 * </pre>
 */
public class KafkaTool {
    public static void main(String[] arguments) throws Exception {
        Map<String, Object> properties = new HashMap<>();
        properties.put("bootstrap.servers", arguments[1]);
        String topic = arguments[2];
        switch (arguments[0]) {
            case "read" -> read(properties, topic);
            case "write" -> write(properties, topic);
            case "create" -> create(properties, topic, Arrays.copyOfRange(arguments, 3, arguments.length));
            default -> throw new IllegalArgumentException(arguments[0]);
        }
    }

    private static void read(Map<String, Object> properties, String topic) {
        properties.put("isolation.level", "read_committed");
        properties.put("enable.auto.commit", "false");
        properties.put("max.poll.records", "10000");
        try (Consumer<byte[], byte[]> consumer =
                new KafkaConsumer<>(properties, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            List<TopicPartition> partitions = consumer.partitionsFor(topic).stream()
                .map(partition -> new TopicPartition(partition.topic(), partition.partition()))
                .collect(Collectors.toList());
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            // With read_committed, where the first open transaction begins.
            Map<TopicPartition, Long> ends = consumer.endOffsets(partitions);
            StringBuilder lines = new StringBuilder();
            while (partitions.stream().anyMatch(partition -> consumer.position(partition) < ends.get(partition))) {
                for (ConsumerRecord<byte[], byte[]> read : consumer.poll(Duration.ofMillis(200))) {
                    lines.append(read.partition()).append('\t').append(read.offset()).append('\t')
                        .append(text(read.key())).append('\t').append(text(read.value())).append('\n');
                }
            }
            System.out.print(lines);
        }
    }

    private static String text(byte[] bytes) {
        return bytes == null ? "-" : Base64.getEncoder().encodeToString(bytes);
    }

    private static void write(Map<String, Object> properties, String topic) throws IOException {
        properties.put("acks", "all");
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        try (Producer<String, String> producer =
                new KafkaProducer<>(properties, new StringSerializer(), new StringSerializer())) {
            for (String line; (line = lines.readLine()) != null; ) {
                producer.send(new ProducerRecord<>(topic, line), (sent, error) -> {
                    if (error != null) {
                        System.err.println(error);
                        Runtime.getRuntime().halt(1);
                    }
                });
            }
        }
    }

    private static void create(Map<String, Object> properties, String topic, String[] settings) throws Exception {
        NewTopic created = new NewTopic(topic, Integer.parseInt(settings[0]), (short) 1);
        created.configs(Arrays.stream(settings).skip(1).map(setting -> setting.split("=", 2))
            .collect(Collectors.toMap(pair -> pair[0], pair -> pair[1])));
        try (Admin admin = Admin.create(properties)) {
            admin.createTopics(List.of(created)).all().get();
        }
    }
}
